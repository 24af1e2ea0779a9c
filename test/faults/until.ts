// SPDX-License-Identifier: Apache-2.0
// Waits for a condition by asking again and again; says what was waited for when it does not come.

import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = 200;

export async function until<T>(
  what: string,
  timeoutMs: number,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    const found = await ask();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > endMs) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await sleep(PAUSE_MS);
  }
}
