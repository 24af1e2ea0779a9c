// SPDX-License-Identifier: Apache-2.0
// What a connection speaks, judged by its first bytes, however they are cut: HTTP/1.x, HTTP/2 by prior knowledge, or
// anything else. More is waited for only while a request by a registered method, or HTTP/2's preface, can still come of
// it, so that other protocols lose no time.

export type Protocol = 'http1' | 'http2' | 'opaque';
export type Judgement = Protocol | 'partial';

/** As much of the HTTP/2 preface as is looked at: no method of HTTP/1 begins so. */
const HTTP2_PREFACE = 'PRI * HTTP/2.0';
const VERSION = 'HTTP/1.';
const CR = 0x0d;
const LF = 0x0a;
const SPACE = 0x20;
/** RFC 9112 2.2: a server should ignore an empty line before the request line. */
const EMPTY_LINES_MAX = 4;

/** IANA's registry, and those of UPnP and caches. Others are HTTP if the first read has all of their request line. */
const methods: ReadonlySet<string> = new Set(
  `ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK M-SEARCH MERGE MKACTIVITY
  MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE NOTIFY OPTIONS ORDERPATCH PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY
  REBIND REPORT SEARCH SUBSCRIBE TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UNSUBSCRIBE UPDATE UPDATEREDIRECTREF
  VERSION-CONTROL`.split(/\s+/),
);
const METHOD_BYTES_MAX = Math.max(...[...methods].map((method) => method.length));

/** RFC 9110 5.6.2: the characters of a method and of a field name. */
const TOKEN = new Uint8Array(256);
for (const char of "!#$%&'*+-.^_`|~") TOKEN[char.charCodeAt(0)] = 1;
for (let code = 0x30; code <= 0x39; code++) TOKEN[code] = 1;
for (let code = 0x41; code <= 0x5a; code++) TOKEN[code] = TOKEN[code + 32] = 1;

export function judgeProtocol(bytes: Buffer): Judgement {
  const { length } = bytes;
  if (length === 0) return 'partial';
  const compared = Math.min(length, HTTP2_PREFACE.length);
  if (HTTP2_PREFACE.startsWith(bytes.toString('latin1', 0, compared))) {
    if (compared === HTTP2_PREFACE.length) return 'http2';
    // "P" may still become a method.
    return 'partial';
  }
  let at = 0;
  for (let lines = 0; bytes[at] === CR && bytes[at + 1] === LF; lines++) {
    if (lines === EMPTY_LINES_MAX) return 'opaque';
    at += 2;
  }
  const start = at;
  while (at < length && TOKEN[bytes[at] ?? 0] === 1) at++;
  if (at === length) return beginsMethod(bytes, start, at) ? 'partial' : 'opaque';
  if (at === start || bytes[at] !== SPACE) return 'opaque';
  const registered = at - start <= METHOD_BYTES_MAX && methods.has(bytes.toString('latin1', start, at));
  const unfinished = registered ? 'partial' : 'opaque';
  const target = ++at;
  while (at < length && isTargetByte(bytes[at] ?? 0)) at++;
  if (at === length) return unfinished;
  if (at === target || bytes[at] !== SPACE) return 'opaque';
  at++;
  for (let index = 0; index < VERSION.length; index++, at++) {
    if (at === length) return unfinished;
    if (bytes[at] !== VERSION.charCodeAt(index)) return 'opaque';
  }
  if (at === length) return unfinished;
  if (bytes[at] !== 0x30 && bytes[at] !== 0x31) return 'opaque';
  at++;
  return at === length || bytes[at] === CR || bytes[at] === LF ? 'http1' : 'opaque';
}

/** When no more bytes will come, or no more are waited for. `full`: more came than a request line may have. */
export function detectProtocol(bytes: Buffer, full = false): Protocol {
  const judgement = judgeProtocol(bytes);
  if (judgement !== 'partial') return judgement;
  return full ? 'http1' : 'opaque';
}

function beginsMethod(bytes: Buffer, start: number, end: number): boolean {
  if (end === start || end - start > METHOD_BYTES_MAX) return false;
  const begun = bytes.toString('latin1', start, end);
  for (const method of methods) if (method.startsWith(begun)) return true;
  return false;
}

function isTargetByte(byte: number): boolean {
  return byte > SPACE && byte !== 0x7f;
}
