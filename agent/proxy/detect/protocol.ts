// SPDX-License-Identifier: Apache-2.0
// What a connection speaks, judged by its first read alone: HTTP/1.x, HTTP/2 by prior knowledge, or anything
// else. As linkerd2-proxy judges: what is no HTTP yet is taken as opaque rather than waited for.

export type Protocol = 'http1' | 'http2' | 'opaque';

/** The shortest request line (`GET / HTTP/1.1`) and as much of the HTTP/2 preface as is looked at. */
const DECISIVE_BYTES = 14;
const HTTP2_PREFACE = 'PRI * HTTP/2.0';
const VERSION = 'HTTP/1.';
const CR = 0x0d;
const LF = 0x0a;
const SPACE = 0x20;

/** RFC 9110 5.6.2: the characters of a method and of a field name. */
const TOKEN = new Uint8Array(256);
for (const char of "!#$%&'*+-.^_`|~") TOKEN[char.charCodeAt(0)] = 1;
for (let code = 0x30; code <= 0x39; code++) TOKEN[code] = 1;
for (let code = 0x41; code <= 0x5a; code++) TOKEN[code] = TOKEN[code + 32] = 1;

export function detectProtocol(bytes: Uint8Array, length = bytes.length): Protocol {
  if (length < DECISIVE_BYTES) return 'opaque';
  let preface = true;
  for (let index = 0; index < DECISIVE_BYTES && preface; index++) {
    preface = bytes[index] === HTTP2_PREFACE.charCodeAt(index);
  }
  if (preface) return 'http2';
  return startsLikeHttp1(bytes, length) ? 'http1' : 'opaque';
}

/** Whether the bytes are a request line, or a part of one that more bytes could make valid. */
function startsLikeHttp1(bytes: Uint8Array, length: number): boolean {
  let at = 0;
  // Empty lines before a request line are to be tolerated (RFC 9112 2.2).
  while (at < length && (bytes[at] === CR || bytes[at] === LF)) {
    if (bytes[at] === CR && at + 1 < length && bytes[at + 1] !== LF) return false;
    at++;
  }
  const method = at;
  while (at < length && TOKEN[bytes[at] ?? 0] === 1) at++;
  if (at === length) return true;
  if (at === method || bytes[at] !== SPACE) return false;
  const target = ++at;
  while (at < length && isTargetByte(bytes[at] ?? 0)) at++;
  if (at === length) return true;
  if (at === target || bytes[at] !== SPACE) return false;
  at++;
  for (let index = 0; index < VERSION.length; index++, at++) {
    if (at === length) return true;
    if (bytes[at] !== VERSION.charCodeAt(index)) return false;
  }
  if (at === length) return true;
  if (bytes[at] !== 0x30 && bytes[at] !== 0x31) return false;
  at++;
  if (at < length && bytes[at] === CR) at++;
  else if (at === length) return true;
  if (at === length) return true;
  if (bytes[at] !== LF) return false;
  at++;
  return at === length || bytes[at] === CR || bytes[at] === LF || TOKEN[bytes[at] ?? 0] === 1;
}

function isTargetByte(byte: number): boolean {
  return byte > SPACE && byte !== 0x7f;
}
