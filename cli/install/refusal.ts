// SPDX-License-Identifier: Apache-2.0
// A command that says no: the message as it is on standard error, exit code 1.

export class Refusal extends Error {
  override readonly name = 'Refusal';
}
