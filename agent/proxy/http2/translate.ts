// SPDX-License-Identifier: Apache-2.0
// Between heads of HTTP/1 and header blocks: HTTP/1 travels over HTTP/2 between agents as Linkerd's does. The request
// keeps its `Host` and says in `l5d-orig-proto` what it was; `:authority` is what HTTP/1's rules give. What belongs to
// an HTTP/1 connection stays behind. Values go from the head's bytes into the block without becoming strings.

import { METHOD_OPTIONS, METHOD_OTHER, methodNames } from '#lib/http/methods.ts';
import { FORM_ABSOLUTE, FORM_ASTERISK, type Head } from '../http1/head.ts';
import type { Encoder } from '#lib/http2/hpack/encoder.ts';
import { defineField, type Field, fieldFromBytes } from '#lib/http2/hpack/field.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import {
  type FieldName,
  FLAG_CONNECTION_SPECIFIC,
  FLAG_NOT_IN_TRAILERS,
  lowerCase,
  NAME_COOKIE,
  NAME_HOST,
  NAME_ORIG_PROTO,
  NAME_TE,
  nameFromText,
  nameOf,
} from '#lib/http2/hpack/names.ts';
import { LineCache } from './line-cache.ts';
import { ORIGIN_ABSOLUTE, originOf } from '#lib/http2/message.ts';

const COLON = 58;
const SPACE = 32;
const TAB = 9;
const SLASH = 47;

const methodName = nameFromText(':method');
const schemeName = nameFromText(':scheme');
const authorityName = nameFromText(':authority');
const pathName = nameFromText(':path');
const methodFields = methodNames.map((name) => defineField(':method', name));
const schemeHttp = defineField(':scheme', 'http');
const pathRoot = defineField(':path', '/');
const pathAsterisk = defineField(':path', '*');
const teTrailers = defineField('te', 'trailers');
/** By minor version and ORIGIN_ABSOLUTE. */
const originFields = ['HTTP/1.0', 'HTTP/1.1', 'HTTP/1.0; absolute-form', 'HTTP/1.1; absolute-form'].map(
  (text) => defineField('l5d-orig-proto', text),
);
const statusFields: (Field | undefined)[] = [];
const lines = new LineCache();

/** `:status`, made once. */
export function statusField(status: number): Field {
  return (statusFields[status] ??= defineField(':status', String(status)));
}

/** The most that the block of a head of `headBytes` takes: the authority may be in it twice. */
export function blockBytesMax(headBytes: number): number {
  return headBytes * 2 + 512;
}

/**
 * Begins a block with what travels on of a parsed request (no CONNECT, no upgrade) that lies in `buffer`. `authority`
 * stands in the place of what the request names, whose `host` and `l5d-dst-canonical` stay behind then; `fallback` is
 * for a request that names nothing, which Linkerd's proxy answers with an error. The caller may add fields of its own.
 */
export function writeRequestHead(
  encoder: Encoder,
  out: Buffer,
  at: number,
  head: Head,
  buffer: Buffer,
  authority: Field | null,
  fallback: Field | null = null,
): number {
  let next = encoder.begin(out, at);
  if (head.method === METHOD_OTHER)
    next = encoder.writeBytes(out, next, methodName, buffer, head.start, head.methodEnd);
  else next = encoder.writeField(out, next, methodFields[head.method] as Field);
  const absolute = head.form === FORM_ABSOLUTE;
  if (absolute) {
    // What stands before "://".
    next = encoder.writeBytes(out, next, schemeName, buffer, head.targetStart, head.hostStart - 3);
  } else {
    next = encoder.writeField(out, next, schemeHttp);
  }
  if (authority !== null) next = encoder.writeField(out, next, authority);
  else if (head.hostEnd > head.hostStart)
    next = encoder.writeBytes(out, next, authorityName, buffer, head.hostStart, head.hostEnd);
  else if (fallback !== null) next = encoder.writeField(out, next, fallback);
  const pathStart = absolute ? head.hostEnd : head.targetStart;
  if (pathStart === head.targetEnd) {
    // RFC 9112 3.2.4: OPTIONS on no path asks about the server.
    next = encoder.writeField(out, next, head.method === METHOD_OPTIONS ? pathAsterisk : pathRoot);
  } else if (buffer[pathStart] === SLASH || head.form === FORM_ASTERISK) {
    next = encoder.writeBytes(out, next, pathName, buffer, pathStart, head.targetEnd);
  } else {
    // A query right after the authority.
    const path = `/${buffer.toString('latin1', pathStart, head.targetEnd)}`;
    next = encoder.writeField(out, next, defineField(':path', path));
  }
  next = writeFields(encoder, out, next, head, buffer, authority !== null);
  return encoder.writeField(out, next, originFields[head.minor + (absolute ? ORIGIN_ABSOLUTE : 0)] as Field);
}

/** As `writeRequestHead`, of a response (not 101, not 2xx to CONNECT). */
export function writeResponseHead(
  encoder: Encoder,
  out: Buffer,
  at: number,
  head: Head,
  buffer: Buffer,
): number {
  let next = encoder.writeField(out, encoder.begin(out, at), statusField(head.status));
  next = writeFields(encoder, out, next, head, buffer, false);
  return encoder.writeField(out, next, originFields[head.minor] as Field);
}

/** `elsewhere`: the request goes to another authority than it names. */
function writeFields(
  encoder: Encoder,
  out: Buffer,
  at: number,
  head: Head,
  buffer: Buffer,
  elsewhere: boolean,
): number {
  let next = at;
  head.dropNominated(buffer);
  const count = head.fieldCount;
  for (let field = 0; field < count; field++) {
    if (!head.travels(field)) continue;
    const lineStart = head.nameStart(field);
    const lineEnd = head.lineEnd(field);
    const known = lines.find(buffer, lineStart, lineEnd);
    if (known !== null) {
      if (elsewhere && saysWhere(known.info)) continue;
      next = encoder.writeField(out, next, known);
      continue;
    }
    const name = nameOf(buffer, lineStart, head.nameEnd(field), lowerCase);
    if ((name.flags & FLAG_CONNECTION_SPECIFIC) !== 0 || name.id === NAME_ORIG_PROTO) continue;
    if (elsewhere && saysWhere(name)) continue;
    const start = head.valueStart(buffer, field);
    const end = head.valueEnd(buffer, field, start);
    if (name.id === NAME_TE) {
      // RFC 9113 8.2.2: nothing else may be in it.
      if (/(^|,)[ \t]*trailers[ \t]*(,|$)/i.test(buffer.toString('latin1', start, end)))
        next = encoder.writeField(out, next, teTrailers);
      continue;
    }
    next = encoder.writeBytes(out, next, name, buffer, start, end);
    lines.learn(buffer, lineStart, lineEnd, name, start, end);
  }
  return next;
}

const saysWhere = ({ id, text }: FieldName): boolean => id === NAME_HOST || text === 'l5d-dst-canonical';

/** A trailer field's line, with its CRLF, as the body's decoder gives it. */
export function trailerField(buffer: Buffer, start: number, end: number): Field {
  let nameEnd = start;
  while (buffer[nameEnd] !== COLON) nameEnd++;
  let valueStart = nameEnd + 1;
  let valueEnd = end - 2;
  while (valueStart < valueEnd && isBlank(buffer[valueStart])) valueStart++;
  while (valueEnd > valueStart && isBlank(buffer[valueEnd - 1])) valueEnd--;
  return fieldFromBytes(nameOf(buffer, start, nameEnd, lowerCase), buffer, valueStart, valueEnd, 0);
}

function isBlank(byte: number | undefined): boolean {
  return byte === SPACE || byte === TAB;
}

/**
 * The head of a validated request with `l5d-orig-proto` as HTTP/1 text, without the empty line, so that fields can be
 * added. `chunked`: the body's length is not known; HTTP/1.0 has no form for that.
 */
export function requestText(list: HeaderList, chunked: boolean): string {
  const origin = originOf(list);
  const authority = list.authorityField?.value ?? '';
  let target = list.pathField?.value ?? '/';
  let text = '';
  if ((origin & ORIGIN_ABSOLUTE) !== 0 && authority !== '') {
    // RFC 9112 3.2.4 again.
    target = `${list.schemeField?.value ?? 'http'}://${authority}${target === '*' ? '' : target}`;
    if (list.hostField === null) text = `host: ${authority}\r\n`;
  }
  const method = list.methodField?.value ?? '';
  text = `${method} ${target} HTTP/1.${origin & 1}\r\n${text}${fieldLines(list)}`;
  return chunked ? `${text}transfer-encoding: chunked\r\n` : text;
}

/** The head of a validated response as HTTP/1 text, without the empty line. `chunked` as in `requestText`. */
export function responseText(list: HeaderList, minor: number, chunked: boolean): string {
  const text = statusLine(minor, list.status) + fieldLines(list);
  return chunked ? `${text}transfer-encoding: chunked\r\n` : text;
}

/** The lines of a validated trailer section that mean something there. */
export function trailerLines(list: HeaderList): string {
  let text = '';
  for (let index = 0; index < list.length; index++) {
    const field = list.fields[index] as Field;
    if ((field.flags & FLAG_NOT_IN_TRAILERS) === 0) text += field.line;
  }
  return text;
}

function fieldLines(list: HeaderList): string {
  let text = '';
  let cookies = '';
  for (let index = 0; index < list.length; index++) {
    const field = list.fields[index] as Field;
    const { id } = field.info;
    // RFC 9113 8.2.3: HTTP/1 has one Cookie field.
    if (id === NAME_COOKIE) cookies += cookies === '' ? field.value : `; ${field.value}`;
    else if (id !== NAME_ORIG_PROTO) text += field.line;
  }
  return cookies === '' ? text : `${text}cookie: ${cookies}\r\n`;
}

const reasons: Readonly<Record<number, string>> = {
  100: 'Continue',
  102: 'Processing',
  103: 'Early Hints',
  200: 'OK',
  201: 'Created',
  202: 'Accepted',
  203: 'Non-Authoritative Information',
  204: 'No Content',
  205: 'Reset Content',
  206: 'Partial Content',
  207: 'Multi-Status',
  208: 'Already Reported',
  226: 'IM Used',
  300: 'Multiple Choices',
  301: 'Moved Permanently',
  302: 'Found',
  303: 'See Other',
  304: 'Not Modified',
  305: 'Use Proxy',
  307: 'Temporary Redirect',
  308: 'Permanent Redirect',
  400: 'Bad Request',
  401: 'Unauthorized',
  402: 'Payment Required',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  406: 'Not Acceptable',
  407: 'Proxy Authentication Required',
  408: 'Request Timeout',
  409: 'Conflict',
  410: 'Gone',
  411: 'Length Required',
  412: 'Precondition Failed',
  413: 'Content Too Large',
  414: 'URI Too Long',
  415: 'Unsupported Media Type',
  416: 'Range Not Satisfiable',
  417: 'Expectation Failed',
  418: "I'm a teapot",
  421: 'Misdirected Request',
  422: 'Unprocessable Content',
  423: 'Locked',
  424: 'Failed Dependency',
  425: 'Too Early',
  426: 'Upgrade Required',
  428: 'Precondition Required',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  451: 'Unavailable For Legal Reasons',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  505: 'HTTP Version Not Supported',
  506: 'Variant Also Negotiates',
  507: 'Insufficient Storage',
  508: 'Loop Detected',
  510: 'Not Extended',
  511: 'Network Authentication Required',
};

const statusLines: (string | undefined)[] = [];

/** With CRLF. HTTP/2 has no reasons, so it is the usual one. */
function statusLine(minor: number, status: number): string {
  return (statusLines[status * 2 + minor] ??= `HTTP/1.${minor} ${status} ${reasons[status] ?? ''}\r\n`);
}
