// SPDX-License-Identifier: Apache-2.0
// A decoded header list, made to be used again and again: pseudo-header fields in their slots, the others in order.
// What `message.ts` needs to judge it is gathered while it fills. One object per worker and use: it holds until the
// next block is decoded into it.

import { METHOD_OTHER } from '#lib/http/methods.ts';
import { LIST_BYTES_MAX, LIST_FIELDS_MAX } from '../limits.ts';
import { type Field, staticFields } from './field.ts';
import {
  FLAG_ORIGIN,
  FLAG_PROXY_REQUEST,
  FLAG_PROXY_RESPONSE,
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
  methodField: Field | null = null;
  schemeField: Field | null = null;
  authorityField: Field | null = null;
  pathField: Field | null = null;
  statusField: Field | null = null;
  hostField: Field | null = null;
  lengthField: Field | null = null;
  originField: Field | null = null;
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

  /** A code of `http/methods.ts`. */
  get method(): number {
    return this.methodField === null ? METHOD_OTHER : this.methodField.number;
  }

  /** 0 when there is none. */
  get status(): number {
    return this.statusField === null ? 0 : this.statusField.number;
  }

  /** -1 when absent. */
  get contentLength(): number {
    return this.lengthField === null ? -1 : this.lengthField.number;
  }

  clear(): void {
    // A few long values of the last list may stay referenced; not more than one list can have.
    this.length = 0;
    this.methodField = null;
    this.schemeField = null;
    this.authorityField = null;
    this.pathField = null;
    this.statusField = null;
    this.hostField = null;
    this.lengthField = null;
    this.originField = null;
    this.flags = 0;
    this.bytes = 0;
  }

  /** Counts a field before it is made; false when there is no room, and then never again in this list. */
  take(fieldBytes: number): boolean {
    this.bytes += fieldBytes;
    if (this.bytes > this.#bytesMax || this.length >= this.#fieldsMax) this.flags |= FLAG_TOO_LARGE;
    return (this.flags & FLAG_TOO_LARGE) === 0;
  }

  /** Adds a field if there is room. */
  add(field: Field): void {
    if (this.take(field.bytes)) this.put(field);
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
      if (this.hostField !== null) this.flags |= FLAG_HOST_TWICE;
      this.hostField = field;
    } else if (id === NAME_CONTENT_LENGTH) {
      if (this.lengthField !== null) this.flags |= FLAG_LENGTH_TWICE;
      this.lengthField = field;
    } else if (id === NAME_ORIG_PROTO) {
      if (this.originField !== null) this.flags |= FLAG_ORIGIN_TWICE;
      this.originField = field;
    }
    this.fields[this.length++] = field;
  }

  #putPseudo(id: number, field: Field): void {
    let earlier: Field | null = null;
    switch (id) {
      case NAME_METHOD:
        earlier = this.methodField;
        this.methodField = field;
        break;
      case NAME_SCHEME:
        earlier = this.schemeField;
        this.schemeField = field;
        break;
      case NAME_AUTHORITY:
        earlier = this.authorityField;
        this.authorityField = field;
        break;
      case NAME_PATH:
        earlier = this.pathField;
        this.pathField = field;
        break;
      case NAME_STATUS:
        earlier = this.statusField;
        this.statusField = field;
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
    if ((flags & FLAG_ORIGIN) !== 0) this.originField = null;
  }

  dropLength(): void {
    this.#dropOne(this.lengthField);
    this.lengthField = null;
  }

  dropHost(): void {
    this.#dropOne(this.hostField);
    this.hostField = null;
  }

  #dropOne(field: Field | null): void {
    if (field === null) return;
    this.fields.splice(this.fields.indexOf(field), 1);
    this.length--;
  }

  /** Removes the fields with these names, in lower case; none that has its own slot here. */
  dropNames(names: ReadonlySet<string>): void {
    let kept = 0;
    for (let index = 0; index < this.length; index++) {
      const field = this.fields[index] as Field;
      if (!names.has(field.info.text)) this.fields[kept++] = field;
    }
    this.length = kept;
  }

  /** Removes what only a proxy may say. */
  strip(): void {
    this.drop(this.statusField === null ? FLAG_PROXY_REQUEST : FLAG_PROXY_RESPONSE);
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
    this.methodField = other.methodField;
    this.schemeField = other.schemeField;
    this.authorityField = other.authorityField;
    this.pathField = other.pathField;
    this.statusField = other.statusField;
    this.hostField = other.hostField;
    this.lengthField = other.lengthField;
    this.originField = other.originField;
    this.flags = other.flags;
    this.bytes = other.bytes;
  }
}
