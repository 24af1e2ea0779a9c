// SPDX-License-Identifier: Apache-2.0
// How long a program that ends goes on serving: until nobody has asked for a while. Whoever still asks has not learnt
// that it ends, and would be failed.

import type { Clock } from '#lib/core/clock.ts';

/** Looks so often: a pause of this process counts as one look, for in it nobody could be heard. */
const LOOK_MS = 250;

export interface QuietOptions {
  readonly clock: Clock;
  /** Grows with each request. */
  readonly asked: () => number;
  readonly quietMs: number;
  readonly looksMax: number;
}

export async function untilQuiet({ clock, asked, quietMs, looksMax }: QuietOptions): Promise<void> {
  let seen = asked();
  for (let looks = 0, quiet = 0; quiet * LOOK_MS < quietMs && looks < looksMax; looks++) {
    await new Promise<void>((resolve) => clock.after(LOOK_MS, resolve));
    const now = asked();
    quiet = now === seen ? quiet + 1 : 0;
    seen = now;
  }
}
