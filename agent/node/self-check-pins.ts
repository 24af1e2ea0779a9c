// SPDX-License-Identifier: Apache-2.0
// Holds pins to what this process has open: a path that is gone or leads to something else is pinned again.

import { existsSync, unlinkSync } from 'node:fs';

interface Pinnable {
  id(): number;
  pin(path: string): void;
}

interface Opened {
  id(): number;
  close(): void;
}

/** True if the pin had to be made again. */
export function repairPin(
  object: Pinnable,
  path: string,
  open: (path: string) => Opened | undefined,
): boolean {
  const there = open(path);
  const same = there?.id() === object.id();
  there?.close();
  if (same) return false;
  if (existsSync(path)) unlinkSync(path);
  object.pin(path);
  return true;
}
