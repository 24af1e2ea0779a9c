// SPDX-License-Identifier: Apache-2.0
// Strict parser of HTTP/1 heads (RFC 9112): finds where things are and what frames the body, makes no strings, and
// closes up the fields that must not travel on. One object per worker: its results hold until the next parse, and the
// caller is done with them by then. No sockets, no routing. Nothing is allocated here after construction.
//
//   GET /path HTTP/1.1\r\n  Host: a\r\n  Connection: x\r\n  X: 1\r\n  \r\n  body…
//   |   |                   |            |                  |         |     |
//   start target      fieldAt[0]    fieldAt[1] dropped  fieldAt[2] fieldAt[3] result of parse
//
// A head that is not complete is parsed again from its start when more of it came; the verdict on a prefix never
// depends on what follows, so wrong bytes are refused as soon as they are seen.

import {
  METHOD_CONNECT,
  METHOD_GET,
  METHOD_OPTIONS,
  METHOD_OTHER,
  METHOD_PATCH,
  methodNames,
} from '#lib/http/methods.ts';
import {
  hostCharacter,
  nameBytes,
  nameIs,
  targetCharacter,
  tokenCharacter,
  valueCharacter,
} from '#lib/http/characters.ts';
import { HEAD_BYTES_MAX, HEAD_FIELDS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX } from '#lib/http/limits.ts';
import { EMPTY_LINES_MAX, NOMINATIONS_MAX } from './limits.ts';

/** Results of `parseRequest` and `parseResponse` that are no position. */
export const INCOMPLETE = 0;
export const BAD_MESSAGE = -1;
export const TOO_LARGE = -2;
export const TARGET_TOO_LONG = -3;
export const BAD_VERSION = -4;

const methods = methodNames.map((name) => nameBytes(name));

export const FORM_ORIGIN = 0;
export const FORM_ABSOLUTE = 1;
export const FORM_AUTHORITY = 2;
export const FORM_ASTERISK = 3;

/** What becomes of a field when the head travels on. */
const KEEP = 0;
/** Dropped, whatever the message is. */
const DROP = 1;
/** Dropped unless the message asks for an upgrade. */
const HOP = 2;
/** Frames or routes the message: `Connection` cannot nominate it away. */
const FIXED = 3;

const CR = 13;
const LF = 10;
const SPACE = 32;
const TAB = 9;
const COMMA = 44;
const COLON = 58;
const SLASH = 47;
const DIGIT_0 = 48;

const TE_NAME = nameBytes('transfer-encoding');
const CONTENT_LENGTH = nameBytes('content-length');
const CONNECTION = nameBytes('connection');
const KEEP_ALIVE = nameBytes('keep-alive');
const PROXY_CONNECTION = nameBytes('proxy-connection');
const UPGRADE = nameBytes('upgrade');
const HOST = nameBytes('host');
const CLOSE = nameBytes('close');
const CHUNKED = nameBytes('chunked');
const H2C = nameBytes('h2c');
const CLIENT_ID = nameBytes('l5d-client-id');
const PROXY_ERROR = nameBytes('l5d-proxy-error');
const PROXY_CLOSE = nameBytes('l5d-proxy-connection');
const REQUIRE_ID = nameBytes('l5d-require-id');
const HTTP_SLASH = Uint8Array.from('HTTP/', (character) => character.charCodeAt(0));

export class Head {
  /** Of the request or status line; empty lines before it are skipped. */
  start = 0;
  /** 0 or 1: HTTP/1.0 or HTTP/1.1. */
  minor = 1;
  method = METHOD_OTHER;
  methodEnd = 0;
  targetStart = 0;
  targetEnd = 0;
  form = FORM_ORIGIN;
  status = 0;
  /** Of the host in an absolute-form target or in `Host`; equal when there is none. */
  hostStart = 0;
  hostEnd = 0;
  hostSeen = false;
  /** -1 when absent. */
  contentLength = -1;
  chunked = false;
  /** Whether this message's connection may carry another one after it. */
  keepAlive = true;
  /**
   * A request for another protocol: `Upgrade` on HTTP/1.1, or CONNECT; or a 101 response. Never where h2c is among the
   * offers: further requests would pass unseen by policy, with an `l5d-client-id` of the client's own making.
   */
  upgrade = false;
  // What is said to a proxy alone and travels no further, by its field, or -1: `l5d-require-id`, and in responses that
  // are stripped of them `l5d-proxy-error` and `l5d-proxy-connection`.
  requireIdField = -1;
  proxyErrorField = -1;
  proxyCloseField = -1;

  readonly #fieldAt = new Int32Array(HEAD_FIELDS_MAX + 1);
  readonly #nameEnd = new Int32Array(HEAD_FIELDS_MAX);
  readonly #fate = new Uint8Array(HEAD_FIELDS_MAX);
  #fields = 0;
  #drops = 0;
  readonly #nominated = new Int32Array(NOMINATIONS_MAX * 2);
  #nominations = 0;
  #lengthField = -1;
  #codingField = -1;
  #closeSeen = false;
  #keepAliveSeen = false;
  #h2cSeen = false;
  #upgradeSeen = false;
  /** Verdict on a field that is wrong. */
  #bad = BAD_MESSAGE;
  #isRequest = true;
  #stripProxyFields = false;
  /** A request has one that was not stripped. */
  #proxyFieldSeen = false;

  /**
   * Position after the head in `buffer[start, end)`, INCOMPLETE, or a negative verdict. `stripProxyFields`: drop what
   * only a proxy may say (`l5d-client-id`).
   */
  parseRequest(buffer: Buffer, start: number, end: number, stripProxyFields: boolean): number {
    this.#reset(true, stripProxyFields);
    let at = start;
    for (let lines = 0; at < end && buffer[at] === CR; lines++) {
      if (lines === EMPTY_LINES_MAX) return BAD_MESSAGE;
      if (at + 1 >= end) return INCOMPLETE;
      if (buffer[at + 1] !== LF) return BAD_MESSAGE;
      at += 2;
    }
    this.start = at;
    while (at < end && tokenCharacter[buffer[at] as number] === 1) at++;
    if (at - this.start > METHOD_BYTES_MAX) return BAD_MESSAGE;
    if (at >= end) return INCOMPLETE;
    if (buffer[at] !== SPACE || at === this.start) return BAD_MESSAGE;
    this.methodEnd = at;
    this.method = methodOf(buffer, this.start, at);
    at++;
    this.targetStart = at;
    while (at < end && targetCharacter[buffer[at] as number] === 1) at++;
    if (at - this.targetStart > TARGET_BYTES_MAX) return TARGET_TOO_LONG;
    if (at >= end) return INCOMPLETE;
    if (buffer[at] !== SPACE || at === this.targetStart) return BAD_MESSAGE;
    this.targetEnd = at;
    at = this.#version(buffer, at + 1, end);
    if (at <= 0) return at;
    if (at + 1 >= end) return at < end && buffer[at] !== CR ? BAD_MESSAGE : INCOMPLETE;
    if (buffer[at] !== CR || buffer[at + 1] !== LF) return BAD_MESSAGE;
    if (!this.#targetForm(buffer)) return BAD_MESSAGE;
    at = this.#parseFields(buffer, at + 2, end);
    if (at <= 0) return at;
    return this.#finishRequest(at);
  }

  /** As `parseRequest`; `stripProxyFields` drops `l5d-proxy-error` and `l5d-proxy-connection`. */
  parseResponse(buffer: Buffer, start: number, end: number, stripProxyFields: boolean): number {
    this.#reset(false, stripProxyFields);
    this.start = start;
    let at = this.#version(buffer, start, end);
    if (at <= 0) return at;
    // " 200" and then a space or the end of the line: servers leave out the space when there is no reason.
    for (let index = 0; index < 4; index++, at++) {
      if (at >= end) return INCOMPLETE;
      const byte = buffer[at] as number;
      if (index === 0 ? byte !== SPACE : byte < DIGIT_0 || byte > DIGIT_0 + 9) return BAD_MESSAGE;
      if (index > 0) this.status = this.status * 10 + byte - DIGIT_0;
    }
    if (this.status < 100) return BAD_MESSAGE;
    if (at >= end) return INCOMPLETE;
    if (buffer[at] === SPACE) {
      at++;
      while (at < end && valueCharacter[buffer[at] as number] === 1) at++;
      if (at >= end) return INCOMPLETE;
    }
    if (buffer[at] !== CR) return BAD_MESSAGE;
    if (at + 1 >= end) return INCOMPLETE;
    if (buffer[at + 1] !== LF) return BAD_MESSAGE;
    at = this.#parseFields(buffer, at + 2, end);
    if (at <= 0) return at;
    if (at - start > HEAD_BYTES_MAX) return TOO_LARGE;
    if (this.chunked && (this.minor === 0 || this.contentLength >= 0)) return BAD_MESSAGE;
    this.keepAlive = this.minor === 1 ? !this.#closeSeen : this.#keepAliveSeen && !this.#closeSeen;
    this.upgrade = this.status === 101;
    return at;
  }

  /** Whether `line`, a trailer field with its CRLF, is well-formed (1), must be dropped (0), or is wrong (-1). */
  trailer(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end && tokenCharacter[buffer[at] as number] === 1) at++;
    const nameEnd = at;
    if (nameEnd === start || buffer[at] !== COLON) return -1;
    at++;
    while (valueCharacter[buffer[at] as number] === 1) at++;
    if (at !== end - 2 || buffer[at] !== CR || buffer[at + 1] !== LF) return -1;
    return forbiddenTrailer(buffer, start, nameEnd) ? 0 : 1;
  }

  dropContentLength(): void {
    this.#drop(this.#lengthField);
  }

  dropTransferEncoding(): void {
    this.#drop(this.#codingField);
  }

  /** As if the request had been parsed with `stripProxyFields`. */
  dropProxyFields(buffer: Buffer): void {
    if (!this.#proxyFieldSeen) return;
    for (let field = 0; field < this.#fields; field++) {
      const name = this.#fieldAt[field] as number;
      if ((this.#nameEnd[field] as number) - name === CLIENT_ID.length && nameIs(buffer, name, CLIENT_ID)) {
        this.#drop(field);
      }
    }
  }

  /** One of the fields by number. */
  dropField(field: number): void {
    this.#drop(field);
  }

  /** Closes up the dropped fields in place (what stands before one moves up) and returns the head's new start. */
  compact(buffer: Buffer, keepHopByHop: boolean): number {
    if (!keepHopByHop && this.#nominations > 0) this.#dropNominated(buffer);
    let start = this.start;
    if (this.#drops === 0) return start;
    for (let index = 0; index < this.#fields; index++) {
      const fate = this.#fate[index];
      if (fate !== DROP && (fate !== HOP || keepHopByHop)) continue;
      const from = this.#fieldAt[index] as number;
      const length = (this.#fieldAt[index + 1] as number) - from;
      buffer.copyWithin(start + length, start, from);
      start += length;
    }
    return start;
  }

  // For who takes field by field what travels on, instead of `compact`: after `dropNominated`, those that `travels`.

  get fieldCount(): number {
    return this.#fields;
  }

  dropNominated(buffer: Buffer): void {
    if (this.#nominations > 0) this.#dropNominated(buffer);
  }

  /** Whether a field travels on in a message that asks for no upgrade. */
  travels(field: number): boolean {
    const fate = this.#fate[field];
    return fate === KEEP || fate === FIXED;
  }

  nameStart(field: number): number {
    return this.#fieldAt[field] as number;
  }

  nameEnd(field: number): number {
    return this.#nameEnd[field] as number;
  }

  /** Without CRLF. */
  lineEnd(field: number): number {
    return (this.#fieldAt[field + 1] as number) - 2;
  }

  valueStart(buffer: Buffer, field: number): number {
    let at = (this.#nameEnd[field] as number) + 1;
    while (buffer[at] === SPACE || buffer[at] === TAB) at++;
    return at;
  }

  value(buffer: Buffer, field: number): string {
    const start = this.valueStart(buffer, field);
    return buffer.toString('latin1', start, this.valueEnd(buffer, field, start));
  }

  /** Not before `valueStart`, which the caller knows. */
  valueEnd(buffer: Buffer, field: number, valueStart: number): number {
    return trimmed(buffer, valueStart, this.lineEnd(field));
  }

  #reset(isRequest: boolean, stripProxyFields: boolean): void {
    this.#isRequest = isRequest;
    this.#bad = BAD_MESSAGE;
    this.#stripProxyFields = stripProxyFields;
    this.minor = 1;
    this.status = 0;
    this.hostStart = 0;
    this.hostEnd = 0;
    this.hostSeen = false;
    this.contentLength = -1;
    this.chunked = false;
    this.upgrade = false;
    this.requireIdField = -1;
    this.proxyErrorField = -1;
    this.proxyCloseField = -1;
    this.#fields = 0;
    this.#drops = 0;
    this.#nominations = 0;
    this.#lengthField = -1;
    this.#codingField = -1;
    this.#closeSeen = false;
    this.#keepAliveSeen = false;
    this.#upgradeSeen = false;
    this.#h2cSeen = false;
    this.#proxyFieldSeen = false;
  }

  #drop(field: number): void {
    if (field < 0) return;
    this.#fate[field] = DROP;
    this.#drops++;
  }

  /** `HTTP/1.0` or `HTTP/1.1`: position after it, INCOMPLETE or a verdict. */
  #version(buffer: Buffer, start: number, end: number): number {
    for (let index = 0; index < 8; index++) {
      if (start + index >= end) return INCOMPLETE;
      const byte = buffer[start + index] as number;
      const right =
        index < 5
          ? byte === HTTP_SLASH[index]
          : index === 6
            ? byte === 46
            : byte >= DIGIT_0 && byte <= DIGIT_0 + 9;
      if (!right) return BAD_MESSAGE;
    }
    this.minor = (buffer[start + 7] as number) - DIGIT_0;
    return buffer[start + 5] === DIGIT_0 + 1 && this.minor < 2 ? start + 8 : BAD_VERSION;
  }

  #targetForm(buffer: Buffer): boolean {
    const { targetStart, targetEnd } = this;
    const first = buffer[targetStart];
    if (first === SLASH) {
      this.form = FORM_ORIGIN;
      return this.method !== METHOD_CONNECT;
    }
    if (this.method === METHOD_CONNECT) {
      this.form = FORM_AUTHORITY;
      let colon = -1;
      for (let at = targetStart; at < targetEnd; at++) {
        if (hostCharacter[buffer[at] as number] === 0) return false;
        if (buffer[at] === COLON) colon = at;
      }
      this.hostStart = targetStart;
      this.hostEnd = targetEnd;
      return colon > targetStart && colon < targetEnd - 1;
    }
    if (targetEnd - targetStart === 1 && first === 42) {
      this.form = FORM_ASTERISK;
      return this.method === METHOD_OPTIONS;
    }
    // scheme "://" authority
    let at = targetStart;
    while (at < targetEnd && tokenCharacter[buffer[at] as number] === 1) at++;
    if (at === targetStart || at + 3 >= targetEnd) return false;
    if (buffer[at] !== COLON || buffer[at + 1] !== SLASH || buffer[at + 2] !== SLASH) return false;
    at += 3;
    this.hostStart = at;
    while (at < targetEnd && hostCharacter[buffer[at] as number] === 1) at++;
    this.hostEnd = at;
    this.form = FORM_ABSOLUTE;
    // No user information: it confuses more than it helps (RFC 9110 4.2.4).
    return at > this.hostStart && (at === targetEnd || buffer[at] === SLASH || buffer[at] === 63);
  }

  #parseFields(buffer: Buffer, start: number, end: number): number {
    let at = start;
    for (;;) {
      if (at >= end) return INCOMPLETE;
      const lineStart = at;
      let byte = buffer[at] as number;
      if (byte === CR) {
        if (at + 1 >= end) return INCOMPLETE;
        if (buffer[at + 1] !== LF) return BAD_MESSAGE;
        this.#fieldAt[this.#fields] = at;
        return at + 2;
      }
      while (tokenCharacter[byte] === 1) {
        if (++at >= end) return INCOMPLETE;
        byte = buffer[at] as number;
      }
      if (byte !== COLON || at === lineStart) return BAD_MESSAGE;
      const nameEnd = at;
      do {
        if (++at >= end) return INCOMPLETE;
        byte = buffer[at] as number;
      } while (byte === SPACE || byte === TAB);
      const valueStart = at;
      while (valueCharacter[byte] === 1) {
        if (++at >= end) return INCOMPLETE;
        byte = buffer[at] as number;
      }
      if (byte !== CR) return BAD_MESSAGE;
      if (at + 1 >= end) return INCOMPLETE;
      if (buffer[at + 1] !== LF) return BAD_MESSAGE;
      const index = this.#fields;
      if (index === HEAD_FIELDS_MAX) return TOO_LARGE;
      this.#fieldAt[index] = lineStart;
      this.#nameEnd[index] = nameEnd;
      this.#fate[index] = KEEP;
      this.#fields = index + 1;
      if (!this.#known(buffer, index, lineStart, nameEnd - lineStart, valueStart, at)) return this.#bad;
      at += 2;
    }
  }

  /** Looks at the fields that concern a proxy; false when one of them is wrong. */
  #known(
    buffer: Buffer,
    index: number,
    name: number,
    length: number,
    valueStart: number,
    lineEnd: number,
  ): boolean {
    switch (length) {
      case 4:
        return (
          !this.#isRequest || !nameIs(buffer, name, HOST) || this.#host(buffer, index, valueStart, lineEnd)
        );
      case 7:
        if (nameIs(buffer, name, UPGRADE)) {
          this.#upgradeSeen = true;
          if (listNames(buffer, valueStart, lineEnd, H2C)) this.#h2cSeen = true;
          this.#mark(index, HOP);
        }
        return true;
      case 10:
        if (nameIs(buffer, name, CONNECTION)) {
          this.#mark(index, HOP);
          return this.#connection(buffer, valueStart, lineEnd);
        }
        if (nameIs(buffer, name, KEEP_ALIVE)) this.#mark(index, HOP);
        return true;
      case 13:
        if (this.#isRequest && nameIs(buffer, name, CLIENT_ID)) {
          if (this.#stripProxyFields) this.#mark(index, DROP);
          else this.#proxyFieldSeen = true;
        }
        return true;
      case 14:
        if (nameIs(buffer, name, CONTENT_LENGTH)) return this.#length(buffer, index, valueStart, lineEnd);
        if (this.#isRequest && nameIs(buffer, name, REQUIRE_ID)) {
          this.requireIdField = index;
          this.#mark(index, DROP);
        }
        return true;
      case 15:
        if (!this.#isRequest && this.#stripProxyFields && nameIs(buffer, name, PROXY_ERROR)) {
          this.proxyErrorField = index;
          this.#mark(index, DROP);
        }
        return true;
      case 16:
        if (nameIs(buffer, name, PROXY_CONNECTION)) this.#mark(index, HOP);
        return true;
      case 17:
        return !nameIs(buffer, name, TE_NAME) || this.#coding(buffer, index, valueStart, lineEnd);
      case 20:
        if (!this.#isRequest && this.#stripProxyFields && nameIs(buffer, name, PROXY_CLOSE)) {
          this.proxyCloseField = index;
          this.#mark(index, DROP);
        }
        return true;
      default:
        return true;
    }
  }

  #mark(index: number, fate: number): void {
    this.#fate[index] = fate;
    this.#drops++;
  }

  #host(buffer: Buffer, index: number, valueStart: number, lineEnd: number): boolean {
    if (this.hostSeen) return false;
    this.hostSeen = true;
    this.#fate[index] = FIXED;
    const end = trimmed(buffer, valueStart, lineEnd);
    for (let at = valueStart; at < end; at++) if (hostCharacter[buffer[at] as number] === 0) return false;
    if (this.form === FORM_ABSOLUTE || this.form === FORM_AUTHORITY) return true;
    this.hostStart = valueStart;
    this.hostEnd = end;
    return true;
  }

  /** RFC 9112 6.3: one field, digits only. Repeated ones are refused even when equal. */
  #length(buffer: Buffer, index: number, valueStart: number, lineEnd: number): boolean {
    const end = trimmed(buffer, valueStart, lineEnd);
    if (this.contentLength >= 0 || end === valueStart || end - valueStart > 15) return false;
    let value = 0;
    for (let at = valueStart; at < end; at++) {
      const digit = (buffer[at] as number) - DIGIT_0;
      if (digit < 0 || digit > 9) return false;
      value = value * 10 + digit;
    }
    this.contentLength = value;
    this.#lengthField = index;
    this.#fate[index] = FIXED;
    return true;
  }

  /**
   * RFC 9112 6.1: one field whose last coding, and only that, is `chunked`. A tab in it is white space, but not for
   * every parser: llhttp takes a response whose coding is followed by one for a body that ends with the connection.
   */
  #coding(buffer: Buffer, index: number, valueStart: number, lineEnd: number): boolean {
    for (let at = (this.#nameEnd[index] as number) + 1; at < lineEnd; at++)
      if (buffer[at] === TAB) return false;
    const end = trimmed(buffer, valueStart, lineEnd);
    if (this.#codingField >= 0) return false;
    this.#codingField = index;
    this.#fate[index] = FIXED;
    for (let at = valueStart; ; ) {
      const itemStart = at;
      while (at < end && tokenCharacter[buffer[at] as number] === 1) at++;
      if (at === itemStart || this.chunked) return false;
      this.chunked = at - itemStart === CHUNKED.length && nameIs(buffer, itemStart, CHUNKED);
      if (at === end) return this.chunked;
      while (at < end && buffer[at] === SPACE) at++;
      if (buffer[at] !== COMMA) return false;
      at++;
      while (at < end && buffer[at] === SPACE) at++;
    }
  }

  #connection(buffer: Buffer, valueStart: number, lineEnd: number): boolean {
    let at = valueStart;
    while (at < lineEnd) {
      while (at < lineEnd && (buffer[at] === SPACE || buffer[at] === TAB || buffer[at] === COMMA)) at++;
      const itemStart = at;
      while (at < lineEnd && buffer[at] !== COMMA) at++;
      const length = trimmed(buffer, itemStart, at) - itemStart;
      if (length === 0) continue;
      if (length === 5 && nameIs(buffer, itemStart, CLOSE)) this.#closeSeen = true;
      else if (length === 10 && nameIs(buffer, itemStart, KEEP_ALIVE)) this.#keepAliveSeen = true;
      else if (length !== 7 || !nameIs(buffer, itemStart, UPGRADE)) {
        if (this.#nominations === NOMINATIONS_MAX) {
          this.#bad = TOO_LARGE;
          return false;
        }
        this.#nominated[this.#nominations * 2] = itemStart;
        this.#nominated[this.#nominations * 2 + 1] = length;
        this.#nominations++;
      }
    }
    return true;
  }

  #dropNominated(buffer: Buffer): void {
    for (let field = 0; field < this.#fields; field++) {
      if (this.#fate[field] !== KEEP) continue;
      const name = this.#fieldAt[field] as number;
      const length = (this.#nameEnd[field] as number) - name;
      for (let item = 0; item < this.#nominations; item++) {
        if (this.#nominated[item * 2 + 1] !== length) continue;
        if (!sameName(buffer, name, this.#nominated[item * 2] as number, length)) continue;
        this.#mark(field, DROP);
        break;
      }
    }
  }

  #finishRequest(at: number): number {
    if (at - this.start > HEAD_BYTES_MAX) return TOO_LARGE;
    if (this.chunked && (this.minor === 0 || this.contentLength >= 0)) return BAD_MESSAGE;
    this.keepAlive = this.minor === 1 ? !this.#closeSeen : this.#keepAliveSeen && !this.#closeSeen;
    if (this.method === METHOD_CONNECT) {
      // A tunnel has no request body, and HTTP/1.0 no tunnels.
      if (this.minor === 0 || this.chunked || this.contentLength > 0) return BAD_MESSAGE;
      this.upgrade = true;
    } else {
      this.upgrade = this.minor === 1 && this.#upgradeSeen && !this.#h2cSeen;
    }
    return at;
  }
}

/** Whether a comma-separated value has this item, in any case. */
function listNames(buffer: Buffer, valueStart: number, lineEnd: number, item: Uint8Array): boolean {
  let at = valueStart;
  while (at < lineEnd) {
    while (at < lineEnd && (buffer[at] === SPACE || buffer[at] === TAB || buffer[at] === COMMA)) at++;
    const start = at;
    while (at < lineEnd && buffer[at] !== COMMA) at++;
    if (trimmed(buffer, start, at) - start === item.length && nameIs(buffer, start, item)) return true;
  }
  return false;
}

/** `end` without white space before it. */
function trimmed(buffer: Buffer, start: number, end: number): number {
  let at = end;
  while (at > start && (buffer[at - 1] === SPACE || buffer[at - 1] === TAB)) at--;
  return at;
}

function sameName(buffer: Buffer, left: number, right: number, length: number): boolean {
  for (let index = 0; index < length; index++) {
    const a = buffer[left + index] as number;
    const b = buffer[right + index] as number;
    if (a !== b && ((a | 0x20) !== (b | 0x20) || (a | 0x20) < 97 || (a | 0x20) > 122)) return false;
  }
  return true;
}

function methodOf(buffer: Buffer, start: number, end: number): number {
  const first = buffer[start] as number;
  for (let code = METHOD_GET; code <= METHOD_PATCH; code++) {
    const name = methods[code] as Uint8Array;
    if (name.length !== end - start || name[0] !== first) continue;
    let same = true;
    for (let index = 1; index < name.length && same; index++) same = buffer[start + index] === name[index];
    if (same) return code;
  }
  return METHOD_OTHER;
}

/** RFC 9110 6.5.1: fields that frame, route or authenticate are never merged from trailers. */
const forbidden = [
  TE_NAME,
  CONTENT_LENGTH,
  CONNECTION,
  KEEP_ALIVE,
  PROXY_CONNECTION,
  UPGRADE,
  HOST,
  nameBytes('expect'),
  nameBytes('te'),
  nameBytes('trailer'),
  nameBytes('authorization'),
  nameBytes('cookie'),
];
const LINKERD_PREFIX = nameBytes('l5d-');

function forbiddenTrailer(buffer: Buffer, start: number, end: number): boolean {
  if (end - start > 4 && nameIs(buffer, start, LINKERD_PREFIX)) return true;
  for (const name of forbidden) if (name.length === end - start && nameIs(buffer, start, name)) return true;
  return false;
}
