// SPDX-License-Identifier: Apache-2.0
// Cuts the DATA of a call into messages: a flag, a length, bytes. It holds what has come of a message, never what a
// length only announces.

import { PREFIX_BYTES } from './call.ts';

/** Results of `next` that are no message. */
export const INCOMPLETE = 0;
export const TOO_LONG = 1;
/** The flag says that it is compressed, or is none. */
export const COMPRESSED = 2;

const nothing = Buffer.alloc(0);

export class MessageReader {
  readonly #bytesMax: number;
  /** `#buffer[#start, #end)` has come and was not taken. */
  #buffer: Buffer = nothing;
  #start = 0;
  #end = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Bytes that it holds. */
  get held(): number {
    return this.#end - this.#start;
  }

  push(bytes: Buffer, start: number, end: number): void {
    const added = end - start;
    if (this.#end + added > this.#buffer.length) {
      const needed = this.held + added;
      // Twice what there is: a message of many parts is not copied once for each.
      const grown = Buffer.allocUnsafeSlow(this.held === 0 ? needed : Math.max(needed, 2 * this.held));
      this.#buffer.copy(grown, 0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
      this.#buffer = grown;
    }
    bytes.copy(this.#buffer, this.#end, start, end);
    this.#end += added;
  }

  /** What is wrong with the message that comes; INCOMPLETE: nothing so far. */
  get problem(): typeof INCOMPLETE | typeof TOO_LONG | typeof COMPRESSED {
    if (this.held === 0) return INCOMPLETE;
    if (this.#buffer[this.#start] !== 0) return COMPRESSED;
    if (this.held < PREFIX_BYTES) return INCOMPLETE;
    return this.#buffer.readUInt32BE(this.#start + 1) > this.#bytesMax ? TOO_LONG : INCOMPLETE;
  }

  /** The next message, or why there is none. Its bytes are not written to again. */
  next(): Buffer | typeof INCOMPLETE | typeof TOO_LONG | typeof COMPRESSED {
    const { problem } = this;
    if (problem !== INCOMPLETE || this.held < PREFIX_BYTES) return problem;
    const length = this.#buffer.readUInt32BE(this.#start + 1);
    const from = this.#start + PREFIX_BYTES;
    if (this.#end - from < length) return INCOMPLETE;
    const message = this.#buffer.subarray(from, from + length);
    this.#start = from + length;
    if (this.#start === this.#end) {
      this.#buffer = nothing;
      this.#start = 0;
      this.#end = 0;
    }
    return message;
  }
}
