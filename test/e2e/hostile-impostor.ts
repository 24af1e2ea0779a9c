// SPDX-License-Identifier: Apache-2.0
// Answers in somebody else's place: listens where it is told, with the certificate it is told, and reports as JSON
// lines every byte that a client entrusted to it.

import { createServer as createTcpServer, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';

export interface ImpostorListener {
  readonly host: string;
  readonly port: number;
  /** Plain TCP if absent. */
  readonly tls?: { readonly chainPem: string; readonly keyPem: string; readonly alpn?: string };
}

export type ImpostorLine =
  | { readonly kind: 'listening' }
  /** `text`: what was received, after decryption. */
  | { readonly kind: 'received'; readonly port: number; readonly text: string };

const parts: Buffer[] = [];
for await (const part of process.stdin as AsyncIterable<Buffer>) parts.push(part);
const listeners = JSON.parse(Buffer.concat(parts).toString()) as readonly ImpostorListener[];

const say = (line: ImpostorLine): void => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
};
const listen = ({ host, port, tls }: ImpostorListener): Promise<void> =>
  new Promise((resolve, reject) => {
    const onConnection = (socket: Socket): void => {
      socket.on('data', (bytes) => {
        say({ kind: 'received', port, text: bytes.toString('latin1') });
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nimpostor');
      });
      socket.on('error', () => socket.destroy());
    };
    const server =
      tls === undefined
        ? createTcpServer(onConnection)
        : createTlsServer(
            {
              cert: tls.chainPem,
              key: tls.keyPem,
              requestCert: true,
              rejectUnauthorized: false,
              ...(tls.alpn === undefined ? {} : { ALPNProtocols: [tls.alpn] }),
            },
            onConnection,
          );
    server.on('error', reject);
    server.listen({ host, port }, resolve);
  });

await Promise.all(listeners.map(listen));
say({ kind: 'listening' });
