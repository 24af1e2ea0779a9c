// SPDX-License-Identifier: Apache-2.0
// A promise that is given up after a time. What it stands for goes on.

import type { Clock, Timer } from '#lib/core/clock.ts';

export async function withDeadline<T>(
  promise: Promise<T>,
  ms: number,
  clock: Clock,
  error: () => Error,
): Promise<T> {
  let timer: Timer | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = clock.after(ms, () => reject(error()));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer?.cancel();
  }
}
