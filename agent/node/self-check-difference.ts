// SPDX-License-Identifier: Apache-2.0
// What a self-check finds: the checks by name, and one difference between what the kernel holds and what it should.

import { errorMessage } from '#lib/core/errors.ts';

/** docs/operations.md says what each means and what to do. */
export const checkNames = [
  'pod-namespace',
  'pod-record',
  'pod-link',
  'pod-pins',
  'pod-slots',
  'pod-listeners',
  'pod-ports',
  'pod-load',
  'pod-connect',
  'node-links',
  'node-pins',
  'node-foreign',
  'node-inflight',
] as const;

export type CheckName = (typeof checkNames)[number];

export interface Difference {
  readonly check: CheckName;
  /** False: only somebody else can; what is steered stays steered or refused. */
  readonly repaired: boolean;
  readonly message: string;
}

/** Runs one check. `look` repairs and says what was wrong, says nothing if all is well, or throws what it cannot mend. */
export function differenceOf(check: CheckName, look: () => string | undefined): Difference[] {
  try {
    const message = look();
    return message === undefined ? [] : [{ check, repaired: true, message }];
  } catch (error) {
    return [{ check, repaired: false, message: errorMessage(error) }];
  }
}
