// SPDX-License-Identifier: Apache-2.0
// The header that opens every connection to a mesh port: which port of the pod is meant, and what is spoken.
// Linkerd's wire (transport.l5d.io/v1), written by hand because it is 40 bytes on the way of every connection.
//
//   "transport.l5d.io/v1\r\n\r\n"  u32 BE length  protobuf Header { int32 port = 1; string name = 2;
//                                     SessionProtocol session_protocol = 3 { Http1 http1 = 1 | Http2 http2 = 2 } }

export type SessionProtocol = 'http1' | 'http2' | undefined;

export interface TransportHeader {
  readonly port: number;
  /** Set by gateways' clients, and on connections that are permits (route/permit.ts); empty otherwise. */
  readonly name: string;
  readonly protocol: SessionProtocol;
}

/** ALPN of connections that begin with this header. */
export const TRANSPORT_ALPN = 'transport.l5d.io/v1';

const PREFACE = Buffer.from(`${TRANSPORT_ALPN}\r\n\r\n`, 'latin1');
/** Longer messages than a port, a DNS name and a protocol need are refused. */
export const TRANSPORT_HEADER_BYTES_MAX = PREFACE.length + 4 + 1024;

/** `name`: ASCII, no longer than the name of a host may be. */
export function encodeTransportHeader(port: number, protocol: SessionProtocol, name = ''): Buffer {
  const message = [0x08];
  pushVarint(message, port);
  if (name !== '') {
    message.push(0x12);
    pushVarint(message, name.length);
    message.push(...Buffer.from(name, 'latin1'));
  }
  if (protocol !== undefined) message.push(0x1a, 2, protocol === 'http1' ? 0x0a : 0x12, 0);
  const out = Buffer.alloc(PREFACE.length + 4 + message.length);
  PREFACE.copy(out);
  out.writeUInt32BE(message.length, PREFACE.length);
  out.set(message, PREFACE.length + 4);
  return out;
}

function pushVarint(message: number[], value: number): void {
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) message.push((rest & 0x7f) | 0x80);
  message.push(rest);
}

export type DecodedHeader =
  | { readonly kind: 'partial' }
  | { readonly kind: 'invalid'; readonly reason: string }
  /** `bytes` is where the payload begins. */
  | { readonly kind: 'header'; readonly header: TransportHeader; readonly bytes: number };

const PARTIAL: DecodedHeader = { kind: 'partial' };
const invalid = (reason: string): DecodedHeader => ({ kind: 'invalid', reason });

/** Decides as early as it can; called again with all bytes so far while the answer is `partial`. */
export function decodeTransportHeader(bytes: Uint8Array, length = bytes.length): DecodedHeader {
  for (let index = 0; index < Math.min(length, PREFACE.length); index++) {
    if (bytes[index] !== PREFACE[index]) return invalid('no transport header');
  }
  const start = PREFACE.length + 4;
  if (length < start) return PARTIAL;
  const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(PREFACE.length);
  if (start + size > TRANSPORT_HEADER_BYTES_MAX) return invalid(`a header of ${size} bytes`);
  if (length < start + size) return PARTIAL;
  return decodeMessage(bytes.subarray(start, start + size), start + size);
}

function decodeMessage(message: Uint8Array, consumed: number): DecodedHeader {
  const reader = new FieldReader(message);
  let port = 0;
  let name = '';
  let protocol: SessionProtocol;
  while (reader.next()) {
    if (reader.field === 1 && reader.wireType === 0) port = reader.value;
    else if (reader.field === 2 && reader.wireType === 2) name = Buffer.from(reader.bytes).toString('utf8');
    else if (reader.field === 3 && reader.wireType === 2) {
      const kind = new FieldReader(reader.bytes);
      while (kind.next()) {
        if (kind.wireType === 2 && (kind.field === 1 || kind.field === 2)) {
          protocol = kind.field === 1 ? 'http1' : 'http2';
        }
      }
      if (kind.broken) return invalid('a malformed session protocol');
    }
  }
  if (reader.broken) return invalid('a malformed message');
  if (port < 1 || port > 65535) return invalid(`port ${port}`);
  return { kind: 'header', header: { port, name, protocol }, bytes: consumed };
}

/** Walks over the fields of a protobuf message; unknown ones are passed over. */
class FieldReader {
  readonly #message: Uint8Array;
  #at = 0;
  field = 0;
  wireType = 0;
  /** Of a varint field, as far as 53 bits hold it. */
  value = 0;
  bytes: Uint8Array = new Uint8Array(0);
  broken = false;

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  /** False at the end and at the first mistake. */
  next(): boolean {
    if (this.broken || this.#at === this.#message.length) return false;
    const tag = this.#varint();
    this.field = Math.floor(tag / 8);
    this.wireType = tag & 7;
    if (this.field === 0) this.broken = true;
    switch (this.wireType) {
      case 0:
        this.value = this.#varint();
        break;
      case 1:
        this.#skip(8);
        break;
      case 2:
        this.#skip(this.#varint());
        break;
      case 5:
        this.#skip(4);
        break;
      default:
        this.broken = true;
    }
    return !this.broken;
  }

  #skip(size: number): void {
    if (this.#at + size > this.#message.length) {
      this.broken = true;
      return;
    }
    this.bytes = this.#message.subarray(this.#at, this.#at + size);
    this.#at += size;
  }

  #varint(): number {
    let value = 0;
    for (let shift = 0; shift < 10; shift++) {
      const byte = this.#message[this.#at++];
      if (byte === undefined) break;
      value += (byte & 0x7f) * 2 ** (7 * shift);
      if (byte < 0x80) return value;
    }
    this.broken = true;
    return 0;
  }
}
