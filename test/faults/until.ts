// SPDX-License-Identifier: Apache-2.0
// Waits for a condition by asking again and again; says what was waited for when it does not come. Time in which this
// process was given no turn does not count.

import { setTimeout as sleep } from 'node:timers/promises';
import { PatientClock } from '#lib/core/patient-clock.ts';

const PAUSE_MS = 200;
export const patientClock = new PatientClock();

export async function until<T>(
  what: string,
  timeoutMs: number,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const endMs = patientClock.nowMs() + timeoutMs;
  for (;;) {
    const found = await ask();
    if (found !== undefined && found !== false) return found;
    if (patientClock.nowMs() > endMs) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(PAUSE_MS);
  }
}
