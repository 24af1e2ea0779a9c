// SPDX-License-Identifier: Apache-2.0
// Linkerd's wire between proxies: TLS 1.3 with both sides verified, ALPN transport.l5d.io/v1, and a header that says
// which port is meant and what is spoken. Written from the wire's description alone.

import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { connect, createServer, type Server, type TLSSocket } from 'node:tls';
import type { Certified } from './certify.ts';
import { encode, Message } from './protobuf.ts';

const ALPN = 'transport.l5d.io/v1';
const PREFACE = Buffer.from(`${ALPN}\r\n\r\n`);

/** What a side of a connection proves itself with, and whom it trusts. */
export type Shown = Pick<Certified, 'cert' | 'key' | 'anchorsPem'>;

export type Session = 'http1' | 'http2' | 'none';

export interface Header {
  readonly port: number;
  readonly name: string;
  readonly session: Session;
}

export function headerBytes({ port, name, session }: Header): Buffer {
  // The choice is made by an empty message, which is written all the same.
  const choice =
    session === 'http1' ? Buffer.of(0x0a, 0) : session === 'http2' ? Buffer.of(0x12, 0) : undefined;
  return withPreface(encode([1, port], [2, name], [3, choice]));
}

export function withPreface(message: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(message.length);
  return Buffer.concat([PREFACE, length, message]);
}

/** The name in a certificate. */
export const identityOf = (socket: TLSSocket): string =>
  socket.getPeerX509Certificate()?.subjectAltName?.replace(/^DNS:/, '') ?? '';

/** Takes the header off; what came behind it is still to be read. */
async function takeHeader(socket: Duplex): Promise<Header> {
  let bytes = Buffer.alloc(0);
  for (;;) {
    const start = PREFACE.length + 4;
    const end = bytes.length < start ? Number.POSITIVE_INFINITY : start + bytes.readUInt32BE(PREFACE.length);
    if (bytes.length >= end) {
      if (!bytes.subarray(0, PREFACE.length).equals(PREFACE)) throw new Error('no transport header');
      const message = new Message(bytes.subarray(start, end));
      if (bytes.length > end) socket.unshift(bytes.subarray(end));
      const choice = message.message(3);
      const session = choice?.has(1) === true ? 'http1' : choice?.has(2) === true ? 'http2' : 'none';
      return { port: message.number(1), name: message.text(2), session };
    }
    const part = socket.read() as Buffer | null;
    if (part === null) await once(socket, 'readable');
    else bytes = Buffer.concat([bytes, part]);
  }
}

/** The mesh port of a pod. */
export function serveMesh(
  shown: Shown,
  take: (socket: TLSSocket, header: Header, client: string) => void,
): Server {
  const server = createServer(
    {
      cert: shown.cert,
      key: shown.key,
      ca: shown.anchorsPem,
      minVersion: 'TLSv1.3',
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: [ALPN],
      allowHalfOpen: true,
    },
    (socket) => {
      socket.on('error', () => socket.destroy());
      if (socket.alpnProtocol !== ALPN) socket.destroy();
      else {
        takeHeader(socket).then(
          (header) => take(socket, header, identityOf(socket)),
          () => socket.destroy(),
        );
      }
    },
  );
  return server.listen(4143, '::');
}

export interface Target {
  readonly host: string;
  /** Of the proxy, or of the application in the form without a header. */
  readonly port: number;
  readonly identity: string;
}

/** A connection to another proxy; without a header it is TLS to the application's own port, with no ALPN. */
export async function dialMesh(
  shown: Shown,
  target: Target,
  header?: Header | Uint8Array,
): Promise<TLSSocket> {
  const socket = connect({
    host: target.host,
    port: target.port,
    servername: target.identity,
    cert: shown.cert,
    key: shown.key,
    ca: shown.anchorsPem,
    minVersion: 'TLSv1.3',
    ...(header === undefined ? {} : { ALPNProtocols: [ALPN] }),
  });
  await once(socket, 'secureConnect');
  // In TLS 1.3 a server that refuses its client says so after the handshake; whoever reads or writes is told.
  socket.on('error', () => socket.destroy());
  if (header !== undefined) {
    const bytes = header instanceof Uint8Array ? header : headerBytes(header);
    await new Promise((done) => socket.write(bytes, done));
  }
  return socket;
}
