// SPDX-License-Identifier: Apache-2.0
// Decoder of header blocks (RFC 7541) into a `HeaderList`. One object per connection; an entry of its table keeps the
// decoded field, so that an indexed field allocates nothing. A list beyond its limits is still decoded to the end,
// because the table depends on it, but not kept.

import { COMPRESSION_ERROR, NO_ERROR } from '../codes.ts';
import { TABLE_BYTES_MAX } from '../limits.ts';
import { FIELD_OVERHEAD_BYTES, type Field, fieldFromBytes, STATIC_LAST, staticFields } from './field.ts';
import { FLAG_TOO_LARGE, type HeaderList } from './header-list.ts';
import { decodedBytesMax, decodeHuffman } from './huffman.ts';
import { asIs, FLAG_NEVER_INDEXED, type FieldName, nameOf } from './names.ts';

const unused = staticFields[0] as Field;
/** More than any length or index that can be right, and far from overflow. */
const INTEGER_MAX = 0x0fff_ffff;

/** Where Huffman code is decoded to. Shared: what is there is used before the next is decoded. */
let scratch = Buffer.alloc(4096);

export class Decoder {
  /** Entries from the newest, at `#newest`, backwards. */
  readonly #ring: Field[];
  readonly #mask: number;
  #newest = 0;
  #count = 0;
  #bytes = 0;
  #bytesMax: number;
  readonly #bytesLimit: number;
  /** Result of `#integer`. */
  #value = 0;
  /** Results of `#string`. */
  #from: Buffer = scratch;
  #start = 0;
  #end = 0;

  /** `tableBytesMax` is what our SETTINGS say; the peer may use it before it knows, so not less than the default. */
  constructor(tableBytesMax: number = TABLE_BYTES_MAX) {
    this.#bytesLimit = tableBytesMax;
    this.#bytesMax = tableBytesMax;
    let capacity = 1;
    while (capacity * FIELD_OVERHEAD_BYTES < tableBytesMax) capacity *= 2;
    this.#ring = Array.from({ length: capacity }, () => unused);
    this.#mask = capacity - 1;
  }

  get tableBytes(): number {
    return this.#bytes;
  }

  /** Decodes the whole block `buffer[start, end)`; NO_ERROR or COMPRESSION_ERROR, which ends the connection. */
  decode(buffer: Buffer, start: number, end: number, list: HeaderList): number {
    const error = this.#block(buffer, start, end, list);
    // A connection that says nothing for hours shall not keep what it was read into.
    this.#from = scratch;
    return error;
  }

  #block(buffer: Buffer, start: number, end: number, list: HeaderList): number {
    list.clear();
    let at = start;
    let updatesAllowed = true;
    while (at < end) {
      const first = buffer[at] as number;
      if (first >= 0x80) {
        let index = first & 0x7f;
        at++;
        if (index === 0x7f) {
          at = this.#integer(buffer, at, end, 0x7f);
          index = this.#value;
        }
        const field = this.#entry(index);
        if (at < 0 || field === undefined) return COMPRESSION_ERROR;
        list.add(field);
      } else if (first >= 0x40 || first < 0x20) {
        at = this.#literal(buffer, at, end, list);
        if (at < 0) return COMPRESSION_ERROR;
      } else {
        // RFC 7541 4.2: only at the beginning of a block.
        if (!updatesAllowed) return COMPRESSION_ERROR;
        at = this.#prefixed(buffer, at, end, 0x1f);
        if (at < 0 || this.#value > this.#bytesLimit) return COMPRESSION_ERROR;
        this.#bytesMax = this.#value;
        this.#evict(0);
        continue;
      }
      updatesAllowed = false;
    }
    return NO_ERROR;
  }

  #entry(index: number): Field | undefined {
    if (index <= STATIC_LAST) return index === 0 ? undefined : staticFields[index];
    const age = index - STATIC_LAST - 1;
    return age < this.#count ? this.#ring[(this.#newest - age) & this.#mask] : undefined;
  }

  /** A literal field at `start`; position after it, or -1. */
  #literal(buffer: Buffer, start: number, end: number, list: HeaderList): number {
    const first = buffer[start] as number;
    const indexes = first >= 0x40;
    let at = this.#prefixed(buffer, start, end, indexes ? 0x3f : 0x0f);
    if (at < 0) return -1;
    let name: FieldName;
    if (this.#value === 0) {
      at = this.#string(buffer, at, end);
      if (at < 0) return -1;
      name = nameOf(this.#from, this.#start, this.#end, asIs);
    } else {
      const named = this.#entry(this.#value);
      if (named === undefined) return -1;
      name = named.info;
    }
    at = this.#string(buffer, at, end);
    if (at < 0) return -1;
    const fieldBytes = name.bytes.length + this.#end - this.#start + FIELD_OVERHEAD_BYTES;
    const kept = (list.flags & FLAG_TOO_LARGE) === 0 && list.take(fieldBytes);
    const enters = indexes && fieldBytes <= this.#bytesMax;
    if (indexes) this.#evict(fieldBytes);
    if (!kept && !enters) return at;
    const flags = first >= 0x10 && !indexes ? FLAG_NEVER_INDEXED : 0;
    const field = fieldFromBytes(name, this.#from, this.#start, this.#end, flags);
    if (kept) list.put(field);
    if (enters) {
      this.#newest = (this.#newest + 1) & this.#mask;
      this.#ring[this.#newest] = field;
      this.#count++;
      this.#bytes += fieldBytes;
    }
    return at;
  }

  /** Makes room for an entry of that size, by RFC 7541 4.4. */
  #evict(fieldBytes: number): void {
    while (this.#count > 0 && this.#bytes + fieldBytes > this.#bytesMax) {
      const oldest = (this.#newest - this.#count + 1) & this.#mask;
      this.#bytes -= (this.#ring[oldest] as Field).bytes;
      this.#ring[oldest] = unused;
      this.#count--;
    }
  }

  /** Length and bytes of a string: `#from[#start, #end)`; position after it, or -1. */
  #string(buffer: Buffer, start: number, end: number): number {
    if (start >= end) return -1;
    const at = this.#prefixed(buffer, start, end, 0x7f);
    const next = at + this.#value;
    if (at < 0 || next > end) return -1;
    if ((buffer[start] as number) < 0x80) {
      this.#from = buffer;
      this.#start = at;
      this.#end = next;
      return next;
    }
    const most = decodedBytesMax(this.#value);
    if (most > scratch.length) scratch = Buffer.alloc(most * 2);
    this.#from = scratch;
    this.#start = 0;
    this.#end = decodeHuffman(buffer, at, next, scratch);
    return this.#end < 0 ? -1 : next;
  }

  /** An integer that begins in `buffer[start]`, below whose prefix there may be other bits. */
  #prefixed(buffer: Buffer, start: number, end: number, prefix: number): number {
    this.#value = (buffer[start] as number) & prefix;
    return this.#value < prefix ? start + 1 : this.#integer(buffer, start + 1, end, prefix);
  }

  /** The rest of an integer whose prefix is full (RFC 7541 5.1). */
  #integer(buffer: Buffer, start: number, end: number, prefix: number): number {
    let value = prefix;
    for (let at = start, shift = 0; at < end && shift < 28; shift += 7) {
      const byte = buffer[at++] as number;
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) {
        this.#value = value;
        return value <= INTEGER_MAX ? at : -1;
      }
    }
    this.#value = 0;
    return -1;
  }
}
