// SPDX-License-Identifier: Apache-2.0
// Tells an encrypted connection that its peer ended from one that was cut: by RFC 8446 6.1 the end is said with a
// close_notify, and a FIN without one is what a process that was killed leaves behind. node:tls emits 'end' for both.
//
// It ends the stream from within the read that brought the close_notify, and then TCP is still being read; for a FIN
// libuv has stopped reading before anybody hears of it. To read what is being read already is an error (EALREADY). This
// is no public interface of Node.js: it is used in this file only, proved once before use, and without it both ends
// look alike.

import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, Socket } from 'node:net';
import { connect, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';

/** What `net` keeps in a socket. */
interface SocketInternals {
  readonly _handle: { readonly reading?: boolean; readonly readStart?: () => number } | null;
}

let proving: Promise<void> | undefined;
let proved = false;

/** Calls `truncated` before the 'end' of a connection that was cut. `raw` is what `socket` encrypts. */
export function watchEnd(socket: TLSSocket, raw: Socket, truncated: () => void): void {
  if (proved) watch(socket, raw, truncated);
}

function watch(socket: TLSSocket, raw: Socket, truncated: () => void): void {
  const push = socket.push.bind(socket);
  socket.push = (chunk: unknown, encoding?: BufferEncoding): boolean => {
    if (chunk === null && wasCut(socket, raw)) truncated();
    return push(chunk, encoding);
  };
}

function wasCut(socket: TLSSocket, raw: Socket): boolean {
  const outer = (socket as unknown as SocketInternals)._handle;
  const inner = (raw as unknown as SocketInternals)._handle;
  // Nobody hears of a FIN while reading is stopped; a close_notify may lie behind what stopped it.
  return outer?.reading === true && inner?.readStart?.() === 0;
}

/** Whether it works here; tried once per thread. */
export function proveTruncatedEnd(log: Log): Promise<void> {
  proving ??= Promise.all([tryOnce(false), tryOnce(true)]).then(
    ([ended, cut]) => {
      proved = !ended && cut;
      if (!proved) log.warn({}, MESSAGE);
    },
    (error: unknown) => log.warn({ error: errorMessage(error) }, MESSAGE),
  );
  return proving;
}

const MESSAGE = 'encrypted connections that were cut cannot be told from ended ones here';

/** Whether a connection that is cut, or ended, is said to have been cut. */
async function tryOnce(cut: boolean): Promise<boolean> {
  const key = randomBytes(32);
  // A key that both know: there is no certificate for this.
  const psk = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;
  // An abstract socket: no port, no file, nobody else's namespace.
  const path = `\0nodemesh-${process.pid}-${randomUUID()}`;
  const listener = createServer();
  const secure = createTlsServer({ ...psk, pskCallback: () => key });
  const carrier = new Socket();
  try {
    return await new Promise<boolean>((resolve, reject) => {
      secure.on('tlsClientError', reject);
      listener.on('error', reject);
      listener.on('connection', (raw) => {
        secure.once('secureConnection', (socket) => {
          let told = false;
          watch(socket, raw, () => (told = true));
          socket.on('error', reject);
          socket.on('end', () => {
            resolve(told);
            socket.destroy();
          });
          socket.resume();
        });
        secure.emit('connection', raw);
      });
      listener.listen({ path }, () => {
        const client = connect({
          ...psk,
          socket: carrier.connect({ path }),
          checkServerIdentity: () => undefined,
          pskCallback: () => ({ psk: key, identity: 'proof' }),
        });
        client.on('error', reject);
        void once(client, 'secureConnect').then(() => {
          if (cut) client.write('said', () => carrier.destroy());
          else client.end('said');
        }, reject);
      });
    });
  } finally {
    carrier.destroy();
    listener.close();
  }
}
