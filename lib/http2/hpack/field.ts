// SPDX-License-Identifier: Apache-2.0
// One header field, checked when it is made: tables and lists share it, so that a field that is sent by its index costs
// neither a string nor a second check.

import { hostCharacter, targetCharacter, tokenCharacter, valueCharacter } from '#lib/http/characters.ts';
import { methodNames } from '#lib/http/methods.ts';
import { METHOD_BYTES_MAX } from '#lib/http/limits.ts';
import {
  FLAG_BAD_HOST,
  FLAG_BAD_VALUE,
  FLAG_CONNECTION_SPECIFIC,
  FLAG_NEVER_INDEXED,
  type FieldName,
  NAME_AUTHORITY,
  NAME_CONTENT_LENGTH,
  NAME_COOKIE,
  NAME_HOST,
  NAME_METHOD,
  NAME_PATH,
  NAME_SCHEME,
  NAME_STATUS,
  NAME_TE,
  nameFromText,
  staticEntries,
} from './names.ts';

/** RFC 7541 4.1: what a field counts besides its bytes. */
export const FIELD_OVERHEAD_BYTES = 32;
/** As nghttp2: shorter cookies could be guessed piece by piece. */
export const COOKIE_INDEXED_BYTES_MIN = 20;
/** Digits that stay below 2^53. */
const LENGTH_DIGITS_MAX = 15;

const DIGIT_0 = 48;
const SPACE = 32;
const TAB = 9;
const SLASH = 47;
const ASTERISK = 42;
const PRIME = 0x0100_0193;

export class Field {
  readonly info: FieldName;
  readonly value: string;
  readonly flags: number;
  /** `:status` and `content-length` as a number, `:method` as a code of `http/methods.ts`; else 0. */
  readonly number: number;
  /** In the static table, name and value; or 0. */
  readonly staticIndex: number;
  /** RFC 7541 4.1. */
  readonly bytes: number;
  /** Of name and value, for the encoder's table; 0: not computed yet. */
  hash: number;
  /** Where an encoder's table had its like last: most likely it is still there, and there in others' tables. */
  slot: number;
  /** Fields with the same number have the same name and value; 0: none yet. */
  like: number;
  #line: string;

  constructor(info: FieldName, value: string, flags: number, number: number, staticIndex: number) {
    this.info = info;
    this.value = value;
    this.flags = flags;
    this.number = number;
    this.staticIndex = staticIndex;
    this.bytes = info.bytes.length + value.length + FIELD_OVERHEAD_BYTES;
    this.hash = 0;
    this.slot = 0;
    this.like = 0;
    this.#line = '';
  }

  get name(): string {
    return this.info.text;
  }

  /** As HTTP/1 writes it, with CRLF. */
  get line(): string {
    if (this.#line === '') this.#line = `${this.info.text}: ${this.value}\r\n`;
    return this.#line;
  }
}

/** A field from the bytes of its value; `flags` are added to what the check finds. */
export function fieldFromBytes(
  info: FieldName,
  buffer: Buffer,
  start: number,
  end: number,
  flags: number,
): Field {
  const value = start === end ? '' : buffer.toString('latin1', start, end);
  let found = flags | info.flags;
  let number = 0;
  switch (info.id) {
    case NAME_METHOD:
      number = Math.max(0, methodNames.indexOf(value as (typeof methodNames)[number], 1));
      if (end - start > METHOD_BYTES_MAX || !consists(buffer, start, end, tokenCharacter))
        found |= FLAG_BAD_VALUE;
      break;
    case NAME_SCHEME:
      if (!consists(buffer, start, end, tokenCharacter)) found |= FLAG_BAD_VALUE;
      break;
    case NAME_AUTHORITY:
      if (!consists(buffer, start, end, hostCharacter)) found |= FLAG_BAD_VALUE;
      break;
    case NAME_HOST:
      if (start !== end && !consists(buffer, start, end, hostCharacter)) found |= FLAG_BAD_HOST;
      if (!isValue(buffer, start, end)) found |= FLAG_BAD_VALUE;
      break;
    case NAME_PATH:
      if (!consists(buffer, start, end, targetCharacter)) found |= FLAG_BAD_VALUE;
      if (buffer[start] !== SLASH && !(end - start === 1 && buffer[start] === ASTERISK))
        found |= FLAG_BAD_VALUE;
      break;
    case NAME_STATUS:
      number = decimal(buffer, start, end);
      if (end - start !== 3 || number < 100) found |= FLAG_BAD_VALUE;
      break;
    case NAME_CONTENT_LENGTH:
      number = decimal(buffer, start, end);
      if (number < 0) found |= FLAG_BAD_VALUE;
      break;
    case NAME_TE:
      // RFC 9113 8.2.2
      if (value.toLowerCase() !== 'trailers') found |= FLAG_CONNECTION_SPECIFIC;
      break;
    case NAME_COOKIE:
      if (end - start < COOKIE_INDEXED_BYTES_MIN) found |= FLAG_NEVER_INDEXED;
      if (!isValue(buffer, start, end)) found |= FLAG_BAD_VALUE;
      break;
    default:
      if (!isValue(buffer, start, end)) found |= FLAG_BAD_VALUE;
  }
  let staticIndex = 0;
  for (const entry of info.staticValues) if (entry.value === value) staticIndex = entry.index;
  return new Field(info, value, found, number, staticIndex);
}

/** For fields that we make ourselves, once if they are always the same. The name in lower case. */
export function defineField(name: string, value: string): Field {
  const bytes = Buffer.from(value, 'latin1');
  return fieldFromBytes(nameFromText(name), bytes, 0, bytes.length, 0);
}

/** By index; 0 is no entry. */
export const staticFields: readonly Field[] = [
  defineField('x', ''),
  ...staticEntries.map(([name, value]) => defineField(name, value)),
];
export const STATIC_LAST: number = staticEntries.length;

/** RFC 9113 8.2.1, RFC 9110 5.5. */
function isValue(buffer: Uint8Array, start: number, end: number): boolean {
  if (start === end) return true;
  const first = buffer[start];
  const last = buffer[end - 1];
  if (first === SPACE || first === TAB || last === SPACE || last === TAB) return false;
  return consists(buffer, start, end, valueCharacter);
}

/** Whether there is at least one byte and all are of the class. */
function consists(buffer: Uint8Array, start: number, end: number, allowed: Uint8Array): boolean {
  for (let at = start; at < end; at++) if (allowed[buffer[at] as number] === 0) return false;
  return end > start;
}

function decimal(buffer: Uint8Array, start: number, end: number): number {
  if (end === start || end - start > LENGTH_DIGITS_MAX) return -1;
  let value = 0;
  for (let at = start; at < end; at++) {
    const digit = (buffer[at] as number) - DIGIT_0;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

/** Never 0. Length, the first, the middle and the last eight bytes: enough to spread; what it finds is compared. */
export function hashBytes(info: FieldName, buffer: Uint8Array, start: number, end: number): number {
  const length = end - start;
  let hash = Math.imul(info.hash ^ length, PRIME);
  if (length > 8) {
    hash = Math.imul(hash ^ (buffer[start] as number), PRIME);
    hash = Math.imul(hash ^ (buffer[start + (length >>> 1)] as number), PRIME);
  }
  for (let at = length > 8 ? end - 8 : start; at < end; at++)
    hash = Math.imul(hash ^ (buffer[at] as number), PRIME);
  return mixed(hash);
}

/** As `hashBytes`. */
export function hashField(field: Field): number {
  if (field.hash !== 0) return field.hash;
  const { info, value } = field;
  const { length } = value;
  let hash = Math.imul(info.hash ^ length, PRIME);
  if (length > 8) {
    hash = Math.imul(hash ^ (value.charCodeAt(0) & 0xff), PRIME);
    hash = Math.imul(hash ^ (value.charCodeAt(length >>> 1) & 0xff), PRIME);
  }
  for (let at = length > 8 ? length - 8 : 0; at < length; at++)
    hash = Math.imul(hash ^ (value.charCodeAt(at) & 0xff), PRIME);
  field.hash = mixed(hash);
  return field.hash;
}

/** Spreads the high bits to the low ones, by which tables are indexed. */
function mixed(hash: number): number {
  const spread = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  return spread ^ (spread >>> 13) || 1;
}
