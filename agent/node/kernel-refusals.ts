// SPDX-License-Identifier: Apache-2.0
// Says in the log that the kernel's side refused connects since the last look, and what to do. The counters are
// metrics anyway; but whoever finds connections refused reads the log first.

import type { Clock, Timer } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';

const LOOK_MS = 5_000;

const remedies: Readonly<Record<string, string>> = {
  inflight_full:
    'connects of pods are refused: too many handshakes of the node or of one pod are unfinished; stop the pod that floods, or raise NODEMESH_INFLIGHT_MAX',
  storage_failed:
    'connects of pods are refused: the kernel has no memory for their records; free memory on the node',
};

export interface KernelRefusalsOptions {
  readonly counters: () => ReadonlyMap<string, number>;
  /** Of the pod with the most unfinished handshakes. */
  readonly busiest: () => { readonly pod: string; readonly inflight: number } | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

export function watchKernelRefusals(options: KernelRefusalsOptions): { close(): void } {
  const { counters, busiest, clock, log } = options;
  let before = counters();
  let timer: Timer;
  const look = (): void => {
    const now = counters();
    for (const [reason, remedy] of Object.entries(remedies)) {
      const refused = (now.get(reason) ?? 0) - (before.get(reason) ?? 0);
      if (refused > 0) log.error({ reason, refused, busiest: busiest() }, remedy);
    }
    before = now;
    timer = clock.after(LOOK_MS, look);
  };
  timer = clock.after(LOOK_MS, look);
  return { close: () => timer.cancel() };
}
