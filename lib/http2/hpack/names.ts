// SPDX-License-Identifier: Apache-2.0
// Names of fields: those that concern a proxy have a number, and every name that was seen lately has one object, found
// by its bytes without making a string.

import { tokenCharacter } from '#lib/http/characters.ts';

export const NAME_OTHER = 0;
/** Pseudo-header fields are the numbers up to NAME_PSEUDO_LAST. */
export const NAME_METHOD = 1;
export const NAME_SCHEME = 2;
export const NAME_AUTHORITY = 3;
export const NAME_PATH = 4;
export const NAME_STATUS = 5;
export const NAME_PSEUDO_OTHER = 6;
export const NAME_PSEUDO_LAST = 6;
export const NAME_HOST = 7;
export const NAME_CONTENT_LENGTH = 8;
export const NAME_TE = 9;
export const NAME_COOKIE = 10;
export const NAME_CONTENT_TYPE = 11;
export const NAME_GRPC_STATUS = 12;
export const NAME_GRPC_MESSAGE = 13;
export const NAME_ORIG_PROTO = 14;
export const NAME_CONNECTION_SPECIFIC = 15;
export const NAME_EXPECT = 16;
export const NAME_DATE = 17;

/** What is to be said of a name or a field; `HeaderList.flags` has those of all its fields. */
export const FLAG_BAD_NAME = 1;
export const FLAG_BAD_VALUE = 2;
/** RFC 9113 8.2.2: must not be in an HTTP/2 message. */
export const FLAG_CONNECTION_SPECIFIC = 4;
/** RFC 7541 7.1.3: must not enter a compression table, here or further on. */
export const FLAG_NEVER_INDEXED = 8;
/** RFC 9110 6.5.1: frames, routes or authenticates, so that it means nothing in trailers. */
export const FLAG_NOT_IN_TRAILERS = 16;
/** Only a proxy may say it in a request (`l5d-client-id`), or it is said to a proxy alone (`l5d-require-id`). */
export const FLAG_PROXY_REQUEST = 32;
/** Only a proxy may say it in a response: `l5d-proxy-error`, `l5d-proxy-connection`. */
export const FLAG_PROXY_RESPONSE = 64;
/** Says what a message was before HTTP/2, among agents: `l5d-orig-proto`. */
export const FLAG_ORIGIN = 256;
/** No host: wrong in a request, of no meaning in a response. */
export const FLAG_BAD_HOST = 128;

const N = FLAG_NOT_IN_TRAILERS;
const C = FLAG_CONNECTION_SPECIFIC | FLAG_NOT_IN_TRAILERS;

const known = new Map<string, readonly [id: number, flags: number]>([
  [':method', [NAME_METHOD, N]],
  [':scheme', [NAME_SCHEME, N]],
  [':authority', [NAME_AUTHORITY, N]],
  [':path', [NAME_PATH, N]],
  [':status', [NAME_STATUS, N]],
  ['host', [NAME_HOST, N]],
  ['content-length', [NAME_CONTENT_LENGTH, N]],
  ['te', [NAME_TE, N]],
  ['cookie', [NAME_COOKIE, N]],
  ['content-type', [NAME_CONTENT_TYPE, 0]],
  ['grpc-status', [NAME_GRPC_STATUS, 0]],
  ['grpc-message', [NAME_GRPC_MESSAGE, 0]],
  ['l5d-orig-proto', [NAME_ORIG_PROTO, N | FLAG_ORIGIN]],
  ['connection', [NAME_CONNECTION_SPECIFIC, C]],
  ['keep-alive', [NAME_CONNECTION_SPECIFIC, C]],
  ['proxy-connection', [NAME_CONNECTION_SPECIFIC, C]],
  ['transfer-encoding', [NAME_CONNECTION_SPECIFIC, C]],
  ['upgrade', [NAME_CONNECTION_SPECIFIC, C]],
  ['expect', [NAME_EXPECT, N]],
  ['date', [NAME_DATE, 0]],
  ['trailer', [NAME_OTHER, N]],
  ['authorization', [NAME_OTHER, N | FLAG_NEVER_INDEXED]],
  ['proxy-authorization', [NAME_OTHER, FLAG_NEVER_INDEXED]],
  ['set-cookie', [NAME_OTHER, FLAG_NEVER_INDEXED]],
  ['l5d-client-id', [NAME_OTHER, N | FLAG_PROXY_REQUEST]],
  ['l5d-require-id', [NAME_OTHER, N | FLAG_PROXY_REQUEST]],
  ['l5d-proxy-error', [NAME_OTHER, N | FLAG_PROXY_RESPONSE]],
  ['l5d-proxy-connection', [NAME_OTHER, N | FLAG_PROXY_RESPONSE]],
]);

/** RFC 7541 appendix A; the first is index 1. */
export const staticEntries: readonly (readonly [name: string, value: string])[] = [
  [':authority', ''],
  [':method', 'GET'],
  [':method', 'POST'],
  [':path', '/'],
  [':path', '/index.html'],
  [':scheme', 'http'],
  [':scheme', 'https'],
  [':status', '200'],
  [':status', '204'],
  [':status', '206'],
  [':status', '304'],
  [':status', '400'],
  [':status', '404'],
  [':status', '500'],
  ['accept-charset', ''],
  ['accept-encoding', 'gzip, deflate'],
  ['accept-language', ''],
  ['accept-ranges', ''],
  ['accept', ''],
  ['access-control-allow-origin', ''],
  ['age', ''],
  ['allow', ''],
  ['authorization', ''],
  ['cache-control', ''],
  ['content-disposition', ''],
  ['content-encoding', ''],
  ['content-language', ''],
  ['content-length', ''],
  ['content-location', ''],
  ['content-range', ''],
  ['content-type', ''],
  ['cookie', ''],
  ['date', ''],
  ['etag', ''],
  ['expect', ''],
  ['expires', ''],
  ['from', ''],
  ['host', ''],
  ['if-match', ''],
  ['if-modified-since', ''],
  ['if-none-match', ''],
  ['if-range', ''],
  ['if-unmodified-since', ''],
  ['last-modified', ''],
  ['link', ''],
  ['location', ''],
  ['max-forwards', ''],
  ['proxy-authenticate', ''],
  ['proxy-authorization', ''],
  ['range', ''],
  ['referer', ''],
  ['refresh', ''],
  ['retry-after', ''],
  ['server', ''],
  ['set-cookie', ''],
  ['strict-transport-security', ''],
  ['transfer-encoding', ''],
  ['user-agent', ''],
  ['vary', ''],
  ['via', ''],
  ['www-authenticate', ''],
];

/** First static index of each name, and which static entries of that name have a value. */
const staticIndexOf = new Map<string, number>();
const staticValuesOf = new Map<string, StaticValue[]>();
staticEntries.forEach(([name, value], position) => {
  if (!staticIndexOf.has(name)) staticIndexOf.set(name, position + 1);
  if (value === '') return;
  const values = staticValuesOf.get(name) ?? [];
  staticValuesOf.set(name, values);
  values.push({ value, index: position + 1 });
});

export interface StaticValue {
  readonly value: string;
  readonly index: number;
}
const noValues: readonly StaticValue[] = [];

export class FieldName {
  readonly text: string;
  readonly bytes: Uint8Array;
  readonly id: number;
  readonly flags: number;
  readonly hash: number;
  /** 0 when the static table does not have the name. */
  readonly staticIndex: number;
  readonly staticValues: readonly StaticValue[];

  constructor(text: string, hash: number) {
    const bytes = Buffer.from(text, 'latin1');
    const [id, flags] = known.get(text) ?? unknownName(text, bytes);
    this.text = text;
    this.bytes = new Uint8Array(bytes);
    this.id = id;
    this.flags = flags;
    this.hash = hash;
    this.staticIndex = staticIndexOf.get(text) ?? 0;
    this.staticValues = staticValuesOf.get(text) ?? noValues;
  }
}

function unknownName(text: string, bytes: Uint8Array): readonly [id: number, flags: number] {
  if (text.startsWith(':')) return [NAME_PSEUDO_OTHER, FLAG_BAD_NAME | N];
  let flags = text.startsWith('l5d-') ? N : 0;
  if (text === '') flags |= FLAG_BAD_NAME;
  for (const byte of bytes) {
    // RFC 9113 8.2: no uppercase.
    if (tokenCharacter[byte] === 0 || (byte >= 65 && byte <= 90)) flags |= FLAG_BAD_NAME;
  }
  return [NAME_OTHER, flags];
}

/** For `nameOf`: bytes as they are (HTTP/2), or in lower case (HTTP/1). */
export const asIs: Uint8Array = Uint8Array.from({ length: 256 }, (_, code) => code);
export const lowerCase: Uint8Array = Uint8Array.from({ length: 256 }, (_, code) =>
  code >= 65 && code <= 90 ? code + 32 : code,
);

const CACHE_NAMES = 512;
/** Longer ones are not kept, which bounds the cache. */
const CACHED_BYTES_MAX = 64;
const cache: (FieldName | undefined)[] = Array.from({ length: CACHE_NAMES });

/** The name `buffer[start, end)`. */
export function nameOf(buffer: Buffer, start: number, end: number, fold: Uint8Array): FieldName {
  const hash = hashName(buffer, start, end, fold);
  const slot = hash & (CACHE_NAMES - 1);
  const cached = cache[slot];
  if (cached !== undefined && sameName(cached.bytes, buffer, start, end, fold)) return cached;
  let text = buffer.toString('latin1', start, end);
  if (fold === lowerCase) text = text.toLowerCase();
  const name = new FieldName(text, hash);
  if (end - start <= CACHED_BYTES_MAX && (name.flags & FLAG_BAD_NAME) === 0) cache[slot] = name;
  return name;
}

export function nameFromText(text: string): FieldName {
  const bytes = Buffer.from(text, 'latin1');
  return nameOf(bytes, 0, bytes.length, asIs);
}

function sameName(
  name: Uint8Array,
  buffer: Uint8Array,
  start: number,
  end: number,
  fold: Uint8Array,
): boolean {
  if (name.length !== end - start) return false;
  for (let index = 0; index < name.length; index++) {
    if (name[index] !== fold[buffer[start + index] as number]) return false;
  }
  return true;
}

/** Length and five bytes tell the usual names apart; names that are hashed alike only displace each other. */
function hashName(buffer: Uint8Array, start: number, end: number, fold: Uint8Array): number {
  const length = end - start;
  if (length === 0) return 0;
  let hash = Math.imul(length, 0x9e37_79b1);
  hash = Math.imul(hash ^ (fold[buffer[start] as number] as number), 0x0100_0193);
  hash = Math.imul(hash ^ (fold[buffer[start + (length >>> 1)] as number] as number), 0x0100_0193);
  hash = Math.imul(hash ^ (fold[buffer[start + (length >>> 2)] as number] as number), 0x0100_0193);
  hash = Math.imul(hash ^ (fold[buffer[end - 1] as number] as number), 0x0100_0193);
  hash = Math.imul(hash ^ (fold[buffer[length > 1 ? end - 2 : start] as number] as number), 0x0100_0193);
  return hash ^ (hash >>> 15);
}
