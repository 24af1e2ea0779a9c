// SPDX-License-Identifier: Apache-2.0
// A head (and what came with it) that arrived in pieces: the rare case, so it may allocate.

import { HEAD_BYTES_MAX } from '#lib/http/limits.ts';

const LF = 10;
const CAPACITY_MIN = 1024;

export class PartialHead {
  bytes: Buffer;
  length: number;

  constructor(buffer: Buffer, start: number, end: number) {
    this.length = end - start;
    this.bytes = Buffer.allocUnsafeSlow(Math.max(CAPACITY_MIN, this.length));
    buffer.copy(this.bytes, 0, start, end);
  }

  /** Adds bytes; whether parsing again may have another outcome (a line ended, or there is too much already). */
  append(buffer: Buffer, start: number, end: number): boolean {
    const length = this.length + end - start;
    if (length > this.bytes.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(length, this.bytes.length * 2));
      this.bytes.copy(grown, 0, 0, this.length);
      this.bytes = grown;
    }
    buffer.copy(this.bytes, this.length, start, end);
    this.length = length;
    for (let at = start; at < end; at++) if (buffer[at] === LF) return true;
    return length > HEAD_BYTES_MAX;
  }

  get tooLong(): boolean {
    return this.length > HEAD_BYTES_MAX;
  }
}
