// SPDX-License-Identifier: Apache-2.0
// Reads the server name out of a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3) without consuming anything.
// Pure: called again with all bytes so far until it decides. Verifies no more of the hello than it walks over.
//
//   record: 16 03 01|03 len:2 | handshake: 01 00 len:2 | 03 03 random:32 session:1+n suites:2+n
//   compression:1+n extensions:2+( type:2 len:2 body )*     server_name body: list:2 ( type:1 len:2 name )*
//
// A hello that spans several records is taken as no TLS: no client that the mesh must know sends one.

/** More bytes than this are never looked at. */
export const CLIENT_HELLO_BYTES_MAX = 8192;

export type ClientHello =
  /** Consistent with a ClientHello so far. */
  | { readonly kind: 'partial' }
  | { readonly kind: 'not-tls' }
  /** Lower case; undefined if the client names none. */
  | { readonly kind: 'hello'; readonly serverName: string | undefined };

const PARTIAL: ClientHello = { kind: 'partial' };
const NOT_TLS: ClientHello = { kind: 'not-tls' };
const NO_NAME: ClientHello = { kind: 'hello', serverName: undefined };

const RECORD_HEADER = 5;
const HANDSHAKE_HEADER = 4;
const EXTENSION_SERVER_NAME = 0;
const NAME_BYTES_MAX = 255;

export function parseClientHello(bytes: Uint8Array, length = bytes.length): ClientHello {
  const byte = (index: number): number => bytes[index] ?? 0;
  const word = (index: number): number => (byte(index) << 8) | byte(index + 1);

  // Every byte is judged as soon as it is there, so that other protocols are recognised by their first one.
  if (length > 0 && byte(0) !== 22) return NOT_TLS;
  if (length > 1 && byte(1) !== 3) return NOT_TLS;
  if (length > 2 && byte(2) !== 1 && byte(2) !== 3) return NOT_TLS;
  if (length > RECORD_HEADER && byte(5) !== 1) return NOT_TLS;
  if (length > 6 && byte(6) !== 0) return NOT_TLS;
  if (length > 9 && byte(9) !== 3) return NOT_TLS;
  if (length > 10 && byte(10) !== 3) return NOT_TLS;
  if (length < RECORD_HEADER + HANDSHAKE_HEADER) return PARTIAL;

  const end = RECORD_HEADER + HANDSHAKE_HEADER + word(7);
  if (end > RECORD_HEADER + word(3) || end > CLIENT_HELLO_BYTES_MAX) return NOT_TLS;
  if (length < end) return PARTIAL;

  let at = RECORD_HEADER + HANDSHAKE_HEADER + 2 + 32;
  if (at + 1 > end) return NOT_TLS;
  at += 1 + byte(at);
  if (at + 2 > end) return NOT_TLS;
  at += 2 + word(at);
  if (at + 1 > end) return NOT_TLS;
  at += 1 + byte(at);
  if (at === end) return NO_NAME;
  if (at + 2 > end || at + 2 + word(at) !== end) return NOT_TLS;
  at += 2;
  while (at < end) {
    if (at + 4 > end) return NOT_TLS;
    const type = word(at);
    const bodyEnd = at + 4 + word(at + 2);
    if (bodyEnd > end) return NOT_TLS;
    if (type === EXTENSION_SERVER_NAME) return readServerName(bytes, at + 4, bodyEnd);
    at = bodyEnd;
  }
  return NO_NAME;
}

/** One host name, as every client sends it. */
function readServerName(bytes: Uint8Array, start: number, end: number): ClientHello {
  const byte = (index: number): number => bytes[index] ?? 0;
  const word = (index: number): number => (byte(index) << 8) | byte(index + 1);
  if (start + 5 > end || start + 2 + word(start) !== end || byte(start + 2) !== 0) return NOT_TLS;
  const nameLength = word(start + 3);
  if (start + 5 + nameLength !== end || nameLength === 0 || nameLength > NAME_BYTES_MAX) return NOT_TLS;
  let serverName = '';
  for (let index = start + 5; index < end; index++) {
    const code = byte(index);
    if (code <= 0x20 || code >= 0x7f) return NOT_TLS;
    serverName += String.fromCharCode(code);
  }
  return { kind: 'hello', serverName: serverName.toLowerCase() };
}
