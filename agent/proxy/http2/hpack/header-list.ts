// SPDX-License-Identifier: Apache-2.0
// A decoded header list, made to be used again and again: pseudo-header fields in their slots, the others in order.
// What `message.ts` needs to judge it is gathered while it fills. One object per worker and use: it holds until the
// next block is decoded into it.

import { LIST_BYTES_MAX, LIST_FIELDS_MAX } from '../limits.ts';
import { FIELD_OVERHEAD_BYTES, type Field, staticFields } from './field.ts';
import {
  NAME_AUTHORITY,
  NAME_CONTENT_LENGTH,
  NAME_HOST,
  NAME_METHOD,
  NAME_ORIG_PROTO,
  NAME_PATH,
  NAME_PSEUDO_LAST,
  NAME_SCHEME,
  NAME_STATUS,
} from './names.ts';

/** In `flags`, beside those of the fields (`names.ts`). */
export const FLAG_PSEUDO_TWICE = 0x1_0000;
export const FLAG_PSEUDO_LATE = 0x2_0000;
/** The list is longer than allowed; the rest was not kept. */
export const FLAG_TOO_LARGE = 0x4_0000;
export const FLAG_HOST_TWICE = 0x8_0000;
export const FLAG_LENGTH_TWICE = 0x10_0000;
export const FLAG_PSEUDO_OTHER = 0x20_0000;
/** `l5d-orig-proto` more than once. */
export const FLAG_ORIGIN_TWICE = 0x40_0000;

const unused = staticFields[0] as Field;

export class HeaderList {
  /** Of `fields`, which is never shortened. */
  length = 0;
  readonly fields: Field[] = [];
  method: Field | null = null;
  scheme: Field | null = null;
  authority: Field | null = null;
  path: Field | null = null;
  status: Field | null = null;
  host: Field | null = null;
  contentLength: Field | null = null;
  origProto: Field | null = null;
  /** Of all fields together, and FLAG_… of this file. */
  flags = 0;
  /** RFC 9113 6.5.2. */
  bytes = 0;

  readonly #fieldsMax: number;
  readonly #bytesMax: number;

  constructor(fieldsMax: number = LIST_FIELDS_MAX, bytesMax: number = LIST_BYTES_MAX) {
    this.#fieldsMax = fieldsMax;
    this.#bytesMax = bytesMax;
  }

  clear(): void {
    // A few long values of the last list may stay referenced; not more than one list can have.
    this.length = 0;
    this.method = null;
    this.scheme = null;
    this.authority = null;
    this.path = null;
    this.status = null;
    this.host = null;
    this.contentLength = null;
    this.origProto = null;
    this.flags = 0;
    this.bytes = 0;
  }

  /** Counts a field before it is made; false when there is no room, and then never again in this list. */
  take(nameBytes: number, valueBytes: number): boolean {
    this.bytes += nameBytes + valueBytes + FIELD_OVERHEAD_BYTES;
    if (this.bytes > this.#bytesMax || this.length >= this.#fieldsMax) this.flags |= FLAG_TOO_LARGE;
    return (this.flags & FLAG_TOO_LARGE) === 0;
  }

  /** Adds a field if there is room. */
  add(field: Field): void {
    if (this.take(field.info.bytes.length, field.value.length)) this.put(field);
  }

  /** Adds a field for which `take` said that there is room. */
  put(field: Field): void {
    const { id } = field.info;
    this.flags |= field.flags;
    if (id > 0 && id <= NAME_PSEUDO_LAST) {
      this.#putPseudo(id, field);
      return;
    }
    if (id === NAME_HOST) {
      if (this.host !== null) this.flags |= FLAG_HOST_TWICE;
      this.host = field;
    } else if (id === NAME_CONTENT_LENGTH) {
      if (this.contentLength !== null) this.flags |= FLAG_LENGTH_TWICE;
      this.contentLength = field;
    } else if (id === NAME_ORIG_PROTO) {
      if (this.origProto !== null) this.flags |= FLAG_ORIGIN_TWICE;
      this.origProto = field;
    }
    this.fields[this.length++] = field;
  }

  #putPseudo(id: number, field: Field): void {
    let earlier: Field | null = null;
    switch (id) {
      case NAME_METHOD:
        earlier = this.method;
        this.method = field;
        break;
      case NAME_SCHEME:
        earlier = this.scheme;
        this.scheme = field;
        break;
      case NAME_AUTHORITY:
        earlier = this.authority;
        this.authority = field;
        break;
      case NAME_PATH:
        earlier = this.path;
        this.path = field;
        break;
      case NAME_STATUS:
        earlier = this.status;
        this.status = field;
        break;
      default:
        this.flags |= FLAG_PSEUDO_OTHER;
    }
    if (earlier !== null) this.flags |= FLAG_PSEUDO_TWICE;
    if (this.length > 0) this.flags |= FLAG_PSEUDO_LATE;
  }

  /** The first field with that number (NAME_…, not of a pseudo-header field). */
  find(id: number): Field | null {
    for (let index = 0; index < this.length; index++) {
      const field = this.fields[index] as Field;
      if (field.info.id === id) return field;
    }
    return null;
  }

  /** The first field with that name, in lower case. */
  get(name: string): Field | null {
    for (let index = 0; index < this.length; index++) {
      const field = this.fields[index] as Field;
      if (field.info.text === name) return field;
    }
    return null;
  }

  /** Removes the fields that have one of these flags (FLAG_PROXY_REQUEST, …). */
  drop(flags: number): void {
    if ((this.flags & flags) === 0) return;
    let kept = 0;
    for (let index = 0; index < this.length; index++) {
      const field = this.fields[index] as Field;
      if ((field.flags & flags) === 0) this.fields[kept++] = field;
    }
    this.length = kept;
    this.flags &= ~flags;
  }

  /** Lets go of what the last list had, for lists that wait long for the next one. */
  forget(): void {
    this.clear();
    this.fields.fill(unused);
  }

  /** Takes over what `other` has. */
  copyFrom(other: HeaderList): void {
    this.length = other.length;
    for (let index = 0; index < other.length; index++) this.fields[index] = other.fields[index] as Field;
    this.method = other.method;
    this.scheme = other.scheme;
    this.authority = other.authority;
    this.path = other.path;
    this.status = other.status;
    this.host = other.host;
    this.contentLength = other.contentLength;
    this.origProto = other.origProto;
    this.flags = other.flags;
    this.bytes = other.bytes;
  }
}
