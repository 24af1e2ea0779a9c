// SPDX-License-Identifier: Apache-2.0
// How a command ends other than by success.

/** The command line itself is wrong: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** Ends with this code and without a word: somebody else (a program that was run) has said what there is to say. */
export class ExitCode extends Error {
  override readonly name = 'ExitCode';
  readonly code: number;

  constructor(code: number) {
    super(`exit code ${code}`);
    this.code = code;
  }
}
