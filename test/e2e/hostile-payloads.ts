// SPDX-License-Identifier: Apache-2.0
// What nobody should send to a listener: noise, halves of messages, far too much of them, the wrong protocol. The
// same bytes in every run.

import type { Attempt } from './hostile-attempt.ts';
import { base64 } from './hostile-helpers.ts';

export type Payload = Pick<Attempt, 'send' | 'tls' | 'ending'>;

const MEBIBYTE = 1 << 20;

/** Bytes without meaning; xorshift32. */
export function noise(length: number, seed = 0x9e3779b9): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let index = 0; index < length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[index] = state & 0xff;
  }
  return bytes;
}

const send = (...pieces: readonly (string | Uint8Array)[]): Payload => ({
  send: pieces.map(base64),
  ending: 'fin',
});

/** The first record of a TLS connection up to where its extensions begin. */
const hello = (version: number, length: number): Buffer =>
  Buffer.concat([
    Buffer.from([
      0x16,
      3,
      version,
      length >> 8,
      length & 0xff,
      1,
      0,
      (length - 4) >> 8,
      (length - 4) & 0xff,
      3,
      3,
    ]),
    noise(32, 7),
  ]);

const request = (...fields: readonly string[]): string =>
  `GET /x HTTP/1.1\r\n${fields.map((field) => `${field}\r\n`).join('')}\r\n`;

export const payloads: Readonly<Record<string, Payload>> = {
  nothing: { ending: 'fin' },
  'a reset at once': { ending: 'reset' },
  'noise, then a reset': { send: [base64(noise(3000, 5))], ending: 'reset' },
  'one byte': send('\0'),
  noise: send(noise(65_536)),
  'noise in pieces': send(...Array.from({ length: 50 }, (_, index) => noise(37, index + 1))),
  zeros: send(Buffer.alloc(65_536)),
  'all ones': send(Buffer.alloc(65_536, 0xff)),
  'a line without an end': send(Buffer.alloc(MEBIBYTE, 'a')),
  'half a request': send('GET /x HTTP/1.1\r\nhost: se'),
  'half a request line': send('GE'),
  'a huge head': send('GET / HTTP/1.1\r\nhost: x\r\n', `x: ${'y'.repeat(1000)}\r\n`.repeat(1000)),
  'a huge target': send(`GET /${'x'.repeat(MEBIBYTE)} HTTP/1.1\r\n\r\n`),
  'a huge method': send('M'.repeat(MEBIBYTE), ' / HTTP/1.1\r\n\r\n'),
  'two lengths': send(request('host: x', 'content-length: 5', 'content-length: 6'), 'hello'),
  'length and chunks': send(
    request('host: x', 'content-length: 5', 'transfer-encoding: chunked'),
    '0\r\n\r\n',
  ),
  'a chunk of nonsense': send(request('host: x', 'transfer-encoding: chunked'), 'zz\r\nhello\r\n'),
  'an endless chunk size': send(request('host: x', 'transfer-encoding: chunked'), 'f'.repeat(10_000)),
  'a body that never comes': send(request('host: x', 'content-length: 1000000'), 'hello'),
  'control characters in a field': send(request('host: x', 'a: \x00\x01\x7f', 'b\x00: c')),
  'a version from the future': send('GET / HTTP/9.9\r\n\r\n'),
  'a hundred requests at once': {
    send: [base64(request('host: x').repeat(99) + request('host: x', 'connection: close'))],
  },
  'HTTP/2 by prior knowledge, then noise': send('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', noise(5000, 3)),
  'a proxy protocol header': send('PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n', request('host: x')),
  'the header of the mesh port in plain text': send(
    'transport.l5d.io/v1\r\n\r\n\0\0\0\x03\x08\x90\x3f',
    request('host: x'),
  ),
  'half a ClientHello': send(hello(1, 500)),
  'a ClientHello of zeros': send(hello(1, 500), Buffer.alloc(463)),
  'a ClientHello of noise': send(hello(3, 500), noise(463, 11)),
  'a ClientHello of 64 KiB': send(hello(3, 0xffff), noise(65_536, 13)),
  'a TLS alert': send(Buffer.from([0x15, 3, 3, 0, 2, 2, 40])),
  'TLS application data without a handshake': send(Buffer.from([0x17, 3, 3, 0, 100]), noise(100, 17)),
  'SSL 2': send(Buffer.from([0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10]), noise(37, 19)),
  'TLS with a name of nobody': { tls: { serverName: 'nobody.example' }, ...send(request('host: x')) },
  'TLS without a name': { tls: {}, ...send(request('host: x')) },
  'TLS 1.2': { tls: { serverName: 'nobody.example', versionMax: 'TLSv1.2' }, ...send(request('host: x')) },
  'TLS with another ALPN': { tls: { serverName: 'nobody.example', alpn: 'h3' }, ...send(request('host: x')) },
};

/** Of the CNI socket's framing: a length that lies, or a payload that is none. */
const frame = (length: number, payload: string | Uint8Array): Payload => {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(length);
  return send(head, payload);
};
const call = (text: string): Payload => frame(Buffer.byteLength(text), text);

export const frames: Readonly<Record<string, Payload>> = {
  'a frame of four gigabytes': frame(0xffff_ffff, noise(5000, 23)),
  'an empty frame': frame(0, ''),
  'a frame cut short': frame(500, noise(100, 29)),
  'a frame of noise': frame(500, noise(500, 31)),
  'an environment without an end': call(`NMCNI1\0CNI_COMMAND=ADD\0`),
  'an environment without names': call('NMCNI1\0=ADD\0\0{}'),
  'an environment of 100 KiB': call(`NMCNI1\0A=${'b'.repeat(100_000)}\0\0{}`),
  'no command': call('NMCNI1\0\0{}'),
  'an unknown command': call('NMCNI1\0CNI_COMMAND=DANCE\0\0{}'),
  'a configuration that is no JSON': call('NMCNI1\0CNI_COMMAND=ADD\0\0{"cni'),
  'a configuration that is no object': call('NMCNI1\0CNI_COMMAND=ADD\0\0[1,2]'),
  'a namespace that is none': call(
    'NMCNI1\0CNI_COMMAND=ADD\0CNI_CONTAINERID=x\0CNI_NETNS=/etc/passwd\0CNI_IFNAME=eth0\0CNI_ARGS=K8S_POD_NAME=a;K8S_POD_NAMESPACE=b;K8S_POD_UID=c\0\0{"cniVersion":"1.0.0","name":"n","type":"t","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/24"}]}}',
  ),
  'deeply nested JSON': call(`NMCNI1\0CNI_COMMAND=ADD\0\0${'['.repeat(200_000)}`),
};
