// SPDX-License-Identifier: Apache-2.0
// Encoder of header blocks (RFC 7541), into a given buffer at an offset. One object per connection. Fields come as
// `Field` objects or as the bytes of an HTTP/1 head, which become no strings unless they enter the table.
//
// A field enters the table when it is seen for the second time: what changes with each message (request ids, most
// paths) would only push out what is repeated. Literals are not Huffman coded: decoding alone costs some nanoseconds a
// byte (bench/micro/hpack.ts), many times what the saved bytes would have cost.

import { HEADER_TABLE_DEFAULT } from '../codes.ts';
import { TABLE_BYTES_MAX } from '../limits.ts';
import {
  COOKIE_INDEXED_BYTES_MIN,
  FIELD_OVERHEAD_BYTES,
  type Field,
  fieldFromBytes,
  hashBytes,
  hashField,
  STATIC_LAST,
  staticFields,
} from './field.ts';
import type { HeaderList } from './header-list.ts';
import { FLAG_NEVER_INDEXED, type FieldName, NAME_COOKIE } from './names.ts';

/** Two size updates at the beginning of a block. */
export const BLOCK_OVERHEAD_BYTES = 12;
/** What a field may take besides its name and value: lengths of up to 4 bytes each, and one for the representation. */
export const FIELD_ENCODED_OVERHEAD_BYTES = 9;

const unused = staticFields[0] as Field;
const noBytes = new Uint8Array(0);
/** As many literals back a field is remembered: about as many as the table has room for. */
const SEEN = 64;
const END = -1;
/** Up to here a loop is quicker than the call that copies. */
const LOOP_BYTES_MAX = 40;

/** Given out. */
let likes = 0;

export class Encoder {
  readonly #fields: Field[];
  /** What came as bytes is compared by them; `noBytes`: by the field's text. */
  readonly #values: Uint8Array[];
  readonly #mask: number;
  #newest = 0;
  #count = 0;
  #bytes = 0;
  #bytesMax = HEADER_TABLE_DEFAULT;
  /** The smallest limit since the last block, and whether the peer has to hear of a limit. */
  #bytesLow = HEADER_TABLE_DEFAULT;
  #updatePending = false;
  /** Chains of entries by hash: slots of the ring, newest first. */
  readonly #buckets: Int16Array;
  readonly #next: Int16Array;
  readonly #hashes: Int32Array;
  /** Hashes of the last literals that did not enter. */
  readonly #seen = new Int32Array(SEEN);
  #seenNext = 0;
  readonly #ownMax: number;

  constructor(tableBytesMax: number = TABLE_BYTES_MAX) {
    this.#ownMax = tableBytesMax;
    let capacity = 1;
    while (capacity * FIELD_OVERHEAD_BYTES < tableBytesMax) capacity *= 2;
    this.#mask = capacity - 1;
    this.#fields = Array.from({ length: capacity }, () => unused);
    this.#values = Array.from({ length: capacity }, () => noBytes);
    this.#hashes = new Int32Array(capacity);
    this.#next = new Int16Array(capacity).fill(END);
    this.#buckets = new Int16Array(capacity).fill(END);
    if (tableBytesMax < HEADER_TABLE_DEFAULT) this.setTableBytesMax(tableBytesMax);
  }

  get tableBytes(): number {
    return this.#bytes;
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. */
  setTableBytesMax(bytes: number): void {
    const limit = Math.min(bytes, this.#ownMax);
    if (limit === this.#bytesMax) return;
    this.#bytesLow = this.#updatePending ? Math.min(this.#bytesLow, limit) : limit;
    this.#bytesMax = limit;
    this.#updatePending = true;
    this.#evict(0);
  }

  /** Begins a block; returns where its first field goes. */
  begin(out: Buffer, at: number): number {
    if (!this.#updatePending) return at;
    this.#updatePending = false;
    let next = at;
    // RFC 7541 4.2: a limit that was lower in between must be told too.
    if (this.#bytesLow < this.#bytesMax) next = writeInteger(out, next, 0x20, 0x1f, this.#bytesLow);
    return writeInteger(out, next, 0x20, 0x1f, this.#bytesMax);
  }

  /** All fields of a list, pseudo-header fields first. */
  writeList(out: Buffer, at: number, list: HeaderList): number {
    let next = at;
    if (list.statusField !== null) next = this.writeField(out, next, list.statusField);
    if (list.methodField !== null) next = this.writeField(out, next, list.methodField);
    if (list.schemeField !== null) next = this.writeField(out, next, list.schemeField);
    if (list.authorityField !== null) next = this.writeField(out, next, list.authorityField);
    if (list.pathField !== null) next = this.writeField(out, next, list.pathField);
    for (let index = 0; index < list.length; index++)
      next = this.writeField(out, next, list.fields[index] as Field);
    return next;
  }

  writeField(out: Buffer, at: number, field: Field): number {
    if (field.staticIndex !== 0) {
      out[at] = 0x80 | field.staticIndex;
      return at + 1;
    }
    const { info, value } = field;
    if ((field.flags & FLAG_NEVER_INDEXED) !== 0)
      return writeText(out, this.#writeName(out, at, 0x10, 0x0f, info), value);
    const guess = this.#fields[field.slot & this.#mask] as Field;
    if (guess.like === field.like && field.like !== 0)
      return this.#writeIndex(out, at, field.slot & this.#mask);
    const hash = hashField(field);
    for (
      let slot = this.#buckets[hash & this.#mask] as number;
      slot !== END;
      slot = this.#next[slot] as number
    ) {
      if (this.#hashes[slot] !== hash) continue;
      const entry = this.#fields[slot] as Field;
      if (entry !== field && (entry.value !== value || entry.info.text !== info.text)) continue;
      field.like = entry.like;
      field.slot = slot;
      return this.#writeIndex(out, at, slot);
    }
    if (!this.#enters(hash, field.bytes))
      return writeText(out, this.#writeName(out, at, 0, 0x0f, info), value);
    const next = writeText(out, this.#writeName(out, at, 0x40, 0x3f, info), value);
    this.#insert(hash, field, noBytes);
    return next;
  }

  /** A field whose value is `buffer[start, end)`, already checked. */
  writeBytes(out: Buffer, at: number, info: FieldName, buffer: Buffer, start: number, end: number): number {
    const { staticValues } = info;
    for (let index = 0; index < staticValues.length; index++) {
      const entry = staticValues[index] as (typeof staticValues)[number];
      if (!sameText(entry.value, buffer, start, end)) continue;
      out[at] = 0x80 | entry.index;
      return at + 1;
    }
    const length = end - start;
    if (
      (info.flags & FLAG_NEVER_INDEXED) !== 0 ||
      (info.id === NAME_COOKIE && length < COOKIE_INDEXED_BYTES_MIN)
    )
      return copyBytes(out, this.#writeName(out, at, 0x10, 0x0f, info), buffer, start, end);
    const hash = hashBytes(info, buffer, start, end);
    for (
      let slot = this.#buckets[hash & this.#mask] as number;
      slot !== END;
      slot = this.#next[slot] as number
    ) {
      if (this.#hashes[slot] !== hash) continue;
      const entry = (this.#fields[slot] as Field).info;
      if (entry !== info && entry.text !== info.text) continue;
      const bytes = this.#values[slot] as Uint8Array;
      const same =
        bytes === noBytes
          ? sameText((this.#fields[slot] as Field).value, buffer, start, end)
          : sameBytes(bytes, buffer, start, end);
      if (same) return this.#writeIndex(out, at, slot);
    }
    if (!this.#enters(hash, info.bytes.length + length + FIELD_OVERHEAD_BYTES))
      return copyBytes(out, this.#writeName(out, at, 0, 0x0f, info), buffer, start, end);
    const next = copyBytes(out, this.#writeName(out, at, 0x40, 0x3f, info), buffer, start, end);
    this.#insert(
      hash,
      fieldFromBytes(info, buffer, start, end, 0),
      Uint8Array.prototype.slice.call(buffer, start, end),
    );
    return next;
  }

  #writeIndex(out: Buffer, at: number, slot: number): number {
    const index = STATIC_LAST + 1 + ((this.#newest - slot) & this.#mask);
    if (index < 0x7f) {
      out[at] = 0x80 | index;
      return at + 1;
    }
    return writeInteger(out, at, 0x80, 0x7f, index);
  }

  /** The representation and the name, as an index if a table has it. */
  #writeName(out: Buffer, at: number, pattern: number, prefix: number, info: FieldName): number {
    if (info.staticIndex !== 0) return writeInteger(out, at, pattern, prefix, info.staticIndex);
    for (let age = 0; age < this.#count; age++) {
      if ((this.#fields[(this.#newest - age) & this.#mask] as Field).info === info)
        return writeInteger(out, at, pattern, prefix, STATIC_LAST + 1 + age);
    }
    out[at] = pattern;
    return copyBytes(out, at + 1, info.bytes, 0, info.bytes.length);
  }

  /** Whether a literal is to enter the table. */
  #enters(hash: number, bytes: number): boolean {
    if (bytes * 2 > this.#bytesMax) return false;
    const seen = this.#seen;
    for (let index = 0; index < SEEN; index++) if (seen[index] === hash) return true;
    seen[this.#seenNext] = hash;
    this.#seenNext = (this.#seenNext + 1) & (SEEN - 1);
    return false;
  }

  #insert(hash: number, field: Field, value: Uint8Array): void {
    this.#evict(field.bytes);
    const slot = (this.#newest + 1) & this.#mask;
    this.#newest = slot;
    this.#fields[slot] = field;
    if (field.like === 0) field.like = ++likes;
    field.slot = slot;
    this.#values[slot] = value;
    this.#hashes[slot] = hash;
    const bucket = hash & this.#mask;
    this.#next[slot] = this.#buckets[bucket] as number;
    this.#buckets[bucket] = slot;
    this.#count++;
    this.#bytes += field.bytes;
  }

  #evict(fieldBytes: number): void {
    while (this.#count > 0 && this.#bytes + fieldBytes > this.#bytesMax) {
      const oldest = (this.#newest - this.#count + 1) & this.#mask;
      const bucket = (this.#hashes[oldest] as number) & this.#mask;
      if (this.#buckets[bucket] === oldest) {
        this.#buckets[bucket] = this.#next[oldest] as number;
      } else {
        let slot = this.#buckets[bucket] as number;
        while (this.#next[slot] !== oldest) slot = this.#next[slot] as number;
        this.#next[slot] = this.#next[oldest] as number;
      }
      this.#bytes -= (this.#fields[oldest] as Field).bytes;
      this.#fields[oldest] = unused;
      this.#values[oldest] = noBytes;
      this.#count--;
    }
  }
}

/** RFC 7541 5.1. */
function writeInteger(out: Buffer, at: number, pattern: number, prefix: number, value: number): number {
  if (value < prefix) {
    out[at] = pattern | value;
    return at + 1;
  }
  out[at] = pattern | prefix;
  let rest = value - prefix;
  let next = at + 1;
  for (; rest >= 0x80; rest >>>= 7) out[next++] = (rest & 0x7f) | 0x80;
  out[next] = rest;
  return next + 1;
}

/** A string with its length. */
function writeText(out: Buffer, at: number, text: string): number {
  const { length } = text;
  const next = writeInteger(out, at, 0, 0x7f, length);
  if (length > LOOP_BYTES_MAX) out.write(text, next, length, 'latin1');
  else for (let index = 0; index < length; index++) out[next + index] = text.charCodeAt(index);
  return next + length;
}

function copyBytes(out: Buffer, at: number, bytes: Uint8Array, start: number, end: number): number {
  const length = end - start;
  const next = writeInteger(out, at, 0, 0x7f, length);
  if (length > LOOP_BYTES_MAX) out.set(bytes.subarray(start, end), next);
  else for (let index = 0; index < length; index++) out[next + index] = bytes[start + index] as number;
  return next + length;
}

function sameText(text: string, buffer: Uint8Array, start: number, end: number): boolean {
  if (text.length !== end - start) return false;
  for (let index = 0; index < text.length; index++) {
    if (text.charCodeAt(index) !== buffer[start + index]) return false;
  }
  return true;
}

function sameBytes(bytes: Uint8Array, buffer: Uint8Array, start: number, end: number): boolean {
  const { length } = bytes;
  if (length !== end - start) return false;
  for (let index = 0; index < length; index++) if (bytes[index] !== buffer[start + index]) return false;
  return true;
}
