// SPDX-License-Identifier: Apache-2.0
// Regular expressions that somebody writes into a resource, run on what somebody else sends: only such whose time is
// linear in the length of the text, so that no expression can hold up a thread that serves others. V8's own linear
// engine runs them (flag `l`); it has no look-around, no back-references, no flags, and no large repetitions.

import { setFlagsFromString } from 'node:v8';
import { errorMessage } from '#lib/core/errors.ts';

setFlagsFromString('--enable-experimental-regexp-engine');

/** Known with the setting above only. */
const LINEAR = 'l';
/** Longest expression that the Gateway API allows. */
const PATTERN_CHARACTERS_MAX = 4_096;

/** Matches whole texts only. Throws an Error whose message says what is wrong. */
export function linearRegExp(pattern: string): RegExp {
  if (pattern.length > PATTERN_CHARACTERS_MAX) {
    throw new Error(`a regular expression is longer than ${PATTERN_CHARACTERS_MAX} characters`);
  }
  try {
    // On its own first: a bracket too many must not end the group.
    void new RegExp(pattern, LINEAR);
    return new RegExp(`^(?:${pattern})$`, LINEAR);
  } catch (error) {
    throw new Error(`not usable as a regular expression: ${errorMessage(error)}`, { cause: error });
  }
}
