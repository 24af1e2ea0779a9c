// SPDX-License-Identifier: Apache-2.0
// Whether this process is the one of its replicas that does what only one may do.

export interface Leadership {
  readonly leading: boolean;
  /** Tells of every change from now on. */
  onChange(listener: (leading: boolean) => void): void;
}

/** Where there is only one. */
export const alone: Leadership = { leading: true, onChange: () => undefined };
