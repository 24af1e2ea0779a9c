// SPDX-License-Identifier: Apache-2.0
// Runs at most so many asynchronous tasks at once; the others wait in their order, up to a limit.

import { MeshError } from './errors.ts';

export interface Concurrency {
  /** Rejects with MESH_LIMIT, without starting the task, when too many wait already. */
  run<T>(task: () => Promise<T>): Promise<T>;
}

export function createConcurrency(options: {
  readonly what: string;
  readonly runningMax: number;
  readonly waitingMax: number;
}): Concurrency {
  const waiting: (() => void)[] = [];
  let running = 0;
  const release = (): void => {
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  };
  return {
    async run(task) {
      if (running < options.runningMax) {
        running++;
      } else {
        if (waiting.length >= options.waitingMax)
          throw new MeshError('MESH_LIMIT', `${options.what}: ${waiting.length} wait already`, {
            retryable: true,
          });
        // Whoever releases hands its place on, so that nobody can slip in between.
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
      try {
        return await task();
      } finally {
        release();
      }
    },
  };
}
