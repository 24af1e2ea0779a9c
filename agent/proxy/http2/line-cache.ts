// SPDX-License-Identifier: Apache-2.0
// Fields that HTTP/1 heads repeat, found by the bytes of their line: heads of one client, and of one application, are
// mostly the same lines, and a known field costs an encoder next to nothing. One per worker. A line enters at its
// second sight, so that what changes with each message does not push others out; secrets do not enter.

import { type Field, fieldFromBytes } from '#lib/http2/hpack/field.ts';
import { FLAG_NEVER_INDEXED, type FieldName } from '#lib/http2/hpack/names.ts';

const LINES = 512;
/** With LINES, what bounds the cache. */
const LINE_BYTES_MAX = 256;
const PRIME = 0x0100_0193;

const noLine: DataView = new DataView(new ArrayBuffer(0));

export class LineCache {
  readonly #lines: DataView[] = Array.from({ length: LINES }, () => noLine);
  readonly #fields: (Field | null)[] = Array.from({ length: LINES }, () => null);
  /** Hash of the line that was looked for last in each place, and not there. */
  readonly #missed = new Int32Array(LINES);
  #hash = 0;
  /** The buffer of the last line, which is mostly that of the next, and a view of it. */
  #buffer: Buffer | null = null;
  #view = noLine;

  /** The field whose line is `buffer[start, end)`, without CRLF; null: make it, and `learn`. */
  find(buffer: Buffer, start: number, end: number): Field | null {
    const hash = hashLine(buffer, start, end);
    this.#hash = hash;
    const slot = hash & (LINES - 1);
    const line = this.#lines[slot] as DataView;
    const length = line.byteLength;
    if (length !== end - start) return null;
    if (buffer !== this.#buffer) {
      this.#buffer = buffer;
      this.#view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
    }
    // Four bytes at a time: this is most of what a repeated head costs. In the end they overlap.
    const view = this.#view;
    const last = length - 4;
    if (last < 0) return null;
    for (let index = 0; index < last; index += 4)
      if (line.getInt32(index) !== view.getInt32(start + index)) return null;
    return line.getInt32(last) === view.getInt32(start + last) ? (this.#fields[slot] as Field | null) : null;
  }

  /** After `find` of the same line: its name and where its value is. */
  learn(
    buffer: Buffer,
    start: number,
    end: number,
    name: FieldName,
    valueStart: number,
    valueEnd: number,
  ): void {
    const slot = this.#hash & (LINES - 1);
    if (this.#missed[slot] !== this.#hash) {
      this.#missed[slot] = this.#hash;
      return;
    }
    if (end - start > LINE_BYTES_MAX || end - start < 4) return;
    const field = fieldFromBytes(name, buffer, valueStart, valueEnd, 0);
    if ((field.flags & FLAG_NEVER_INDEXED) !== 0) return;
    this.#lines[slot] = new DataView(Uint8Array.from(buffer.subarray(start, end)).buffer);
    this.#fields[slot] = field;
    this.#missed[slot] = 0;
  }
}

/** Length, two bytes of the name, the last eight: enough to spread; what it finds is compared. */
function hashLine(buffer: Uint8Array, start: number, end: number): number {
  const length = end - start;
  let hash = Math.imul(length ^ 0x811c_9dc5, PRIME);
  hash = Math.imul(hash ^ (buffer[start] as number), PRIME);
  hash = Math.imul(hash ^ (buffer[start + (length >>> 1)] as number), PRIME);
  for (let at = length > 8 ? end - 8 : start; at < end; at++)
    hash = Math.imul(hash ^ (buffer[at] as number), PRIME);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  return hash ^ (hash >>> 13);
}
