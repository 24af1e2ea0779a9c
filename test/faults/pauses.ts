// SPDX-License-Identifier: Apache-2.0
// When this process was given no turn: the machine was busy, or stood still as a whole. Whoever says how soon something
// has to be seen by programs on the same machine leaves that time out.

const TICK_MS = 5;
/** A tick that is later than this is a pause. */
const LATE_MS = 20;
const PAUSES_KEPT = 100_000;

interface Pause {
  readonly fromMs: number;
  readonly toMs: number;
}

export const pauses: Pause[] = [];
let tickedMs = Date.now();
setInterval(() => {
  const nowMs = Date.now();
  if (nowMs - tickedMs > TICK_MS + LATE_MS && pauses.length < PAUSES_KEPT)
    pauses.push({ fromMs: tickedMs + TICK_MS, toMs: nowMs });
  tickedMs = nowMs;
}, TICK_MS).unref();

/** From one moment to another (since the epoch), without pauses; negative when `toMs` is the earlier one. */
export function countedMs(fromMs: number, toMs: number, known: readonly Pause[] = pauses): number {
  if (toMs <= fromMs) return toMs - fromMs;
  let counted = toMs - fromMs;
  for (const pause of known) {
    counted -= Math.max(0, Math.min(toMs, pause.toMs) - Math.max(fromMs, pause.fromMs));
  }
  return counted;
}
