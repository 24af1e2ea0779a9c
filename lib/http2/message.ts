// SPDX-License-Identifier: Apache-2.0
// Whether a decoded header list is a message (RFC 9113 8): pseudo-header fields, connection-specific fields, lengths.
// Names and values were checked when the fields were made (`hpack/field.ts`); this reads what the list gathered.

import { METHOD_CONNECT, METHOD_HEAD, METHOD_OPTIONS } from '#lib/http/methods.ts';
import { TARGET_BYTES_MAX } from '#lib/http/limits.ts';
import {
  FLAG_HOST_TWICE,
  FLAG_LENGTH_TWICE,
  FLAG_ORIGIN_TWICE,
  FLAG_PSEUDO_LATE,
  FLAG_PSEUDO_OTHER,
  FLAG_PSEUDO_TWICE,
  FLAG_TOO_LARGE,
  type HeaderList,
} from './hpack/header-list.ts';
import { FLAG_BAD_HOST, FLAG_BAD_NAME, FLAG_BAD_VALUE, FLAG_CONNECTION_SPECIFIC } from './hpack/names.ts';

export type RequestFields = HeaderList;
export type ResponseFields = HeaderList;

export const VALID = 0;
/** Answered with 431, if it is a request. */
export const LIST_TOO_LARGE = 1;
/** Answered with 414. */
export const PATH_TOO_LONG = 2;
/** This and all above: malformed (RFC 9113 8.1.1), a stream error of type PROTOCOL_ERROR. */
export const BAD_PSEUDO = 3;
export const BAD_NAME = 4;
export const BAD_VALUE = 5;
export const BAD_CONNECTION_FIELD = 6;
export const BAD_LENGTH = 7;
export const BAD_HOST = 8;
/** RFC 9113 8.3.1: it should be taken as malformed; if it is not, `:authority` is what holds. */
export const HOSTS_DIFFER = 9;

/** By the codes above, for logs. */
export const verdictTexts: readonly string[] = [
  'valid',
  'the header list is too large',
  'the path is too long',
  'pseudo-header fields are missing, repeated, unknown, or not first',
  'a name of a field is wrong',
  'a value of a field is wrong',
  'a field belongs to HTTP/1 connections',
  'content-length is given twice or is not that of the body',
  'host is no host or given twice',
  ':authority and host differ',
];

/** `l5d-orig-proto`: none, or minor version and, for a target in absolute form, ORIGIN_ABSOLUTE. */
export const ORIGIN_NONE = -1;
export const ORIGIN_ABSOLUTE = 2;

const PSEUDO = FLAG_PSEUDO_TWICE | FLAG_PSEUDO_LATE | FLAG_PSEUDO_OTHER;
const HOST = FLAG_HOST_TWICE | FLAG_BAD_HOST;
/** In any header section; what is wrong in trailers, too. */
const WRONG = PSEUDO | FLAG_BAD_NAME | FLAG_BAD_VALUE | FLAG_CONNECTION_SPECIFIC | FLAG_TOO_LARGE;
const WRONG_RESPONSE = WRONG | FLAG_LENGTH_TWICE | FLAG_ORIGIN_TWICE;
const WRONG_REQUEST = WRONG_RESPONSE | HOST;

/** RFC 9113 8.3.1, 8.5. A request without any authority is valid; nobody invents one. */
export function validateRequest(list: HeaderList): number {
  if ((list.flags & WRONG_REQUEST) !== 0) return whatIsWrong(list.flags & WRONG_REQUEST);
  const { methodField, schemeField, authorityField, pathField, hostField } = list;
  if (methodField === null || list.statusField !== null) return BAD_PSEUDO;
  if (methodField.number === METHOD_CONNECT) {
    if (schemeField !== null || pathField !== null || authorityField === null) return BAD_PSEUDO;
    return /:\d+$/.test(authorityField.value) ? VALID : BAD_VALUE;
  }
  if (schemeField === null || pathField === null) return BAD_PSEUDO;
  const path = pathField.value;
  if (path.length > TARGET_BYTES_MAX) return PATH_TOO_LONG;
  if (path === '*' && methodField.number !== METHOD_OPTIONS) return BAD_VALUE;
  if (authorityField === null || hostField === null || hostField.value === authorityField.value) return VALID;
  // Of what was HTTP/1 one of the two means nothing: Host beside a target in absolute form (RFC 9112 3.2.2), else
  // :authority, which Linkerd's proxies leave as it was when a route changes Host.
  if (originOf(list) !== ORIGIN_NONE) return VALID;
  return hostField.value.toLowerCase() === authorityField.value.toLowerCase() ? VALID : HOSTS_DIFFER;
}

/** RFC 9113 8.3.2. An interim response is valid, 101 is not (8.6). */
export function validateResponse(list: HeaderList): number {
  if ((list.flags & WRONG_RESPONSE) !== 0) return whatIsWrong(list.flags & WRONG_RESPONSE);
  const { statusField } = list;
  if (statusField === null || statusField.number === 101) return BAD_PSEUDO;
  if (list.methodField !== null || list.schemeField !== null) return BAD_PSEUDO;
  return list.authorityField === null && list.pathField === null ? VALID : BAD_PSEUDO;
}

/** RFC 9113 8.1: no pseudo-header fields. That they end the stream is for who sees the frame. */
export function validateTrailers(list: HeaderList): number {
  if ((list.flags & WRONG) !== 0) return whatIsWrong(list.flags & WRONG);
  if (list.methodField !== null || list.schemeField !== null || list.statusField !== null) return BAD_PSEUDO;
  return list.authorityField === null && list.pathField === null ? VALID : BAD_PSEUDO;
}

function whatIsWrong(flags: number): number {
  // What was left out of a list that is too large could be wrong too; nobody will act on it.
  if ((flags & FLAG_TOO_LARGE) !== 0) return LIST_TOO_LARGE;
  if ((flags & PSEUDO) !== 0) return BAD_PSEUDO;
  if ((flags & FLAG_BAD_NAME) !== 0) return BAD_NAME;
  if ((flags & FLAG_CONNECTION_SPECIFIC) !== 0) return BAD_CONNECTION_FIELD;
  if ((flags & HOST) !== 0) return BAD_HOST;
  return (flags & FLAG_LENGTH_TWICE) !== 0 ? BAD_LENGTH : BAD_VALUE;
}

/** What the message was before it was put into HTTP/2; values nobody knows mean that it always was HTTP/2. */
export function originOf(list: HeaderList): number {
  if (list.originField === null) return ORIGIN_NONE;
  const { value } = list.originField;
  if (!value.startsWith('HTTP/1.1') && !value.startsWith('HTTP/1.0')) return ORIGIN_NONE;
  return (value[7] === '1' ? 1 : 0) | (value.endsWith('; absolute-form') ? ORIGIN_ABSOLUTE : 0);
}

// Bytes of DATA against `content-length` (RFC 9113 8.1.1): a number that a stream keeps.

export const BODY_UNKNOWN = -1;
export const BODY_MISMATCH = -2;

/** How many bytes are to come after a request's head. */
export function requestBody(list: HeaderList, endStream: boolean): number {
  const { contentLength } = list;
  if (!endStream) return contentLength;
  return contentLength > 0 ? BODY_MISMATCH : 0;
}

/** How many bytes are to come after the head of a final response to a request with that method. */
export function responseBody(list: HeaderList, method: number, endStream: boolean): number {
  const { status, contentLength } = list;
  if (method === METHOD_HEAD || status === 304 || status === 204) return 0;
  if (method === METHOD_CONNECT && status < 300) return endStream ? 0 : BODY_UNKNOWN;
  return requestBody(list, endStream) === BODY_MISMATCH ? BODY_MISMATCH : endStream ? 0 : contentLength;
}

/** What is to come after `bytes` of it; BODY_MISMATCH when they are too many. */
export function bodyAfter(expected: number, bytes: number): number {
  if (expected < 0) return expected;
  return bytes > expected ? BODY_MISMATCH : expected - bytes;
}

/** Whether a body may end here. */
export function bodyMayEnd(expected: number): boolean {
  return expected === 0 || expected === BODY_UNKNOWN;
}
