// SPDX-License-Identifier: Apache-2.0
// Lets a socket that exists already, an encrypted one above all, read into a buffer of ours instead of emitting a new
// one for each 16 KiB: node:tls takes `onread` only where it dials itself. This is no public interface of Node.js: it
// is used in this file only, proved once before use, and without it reading goes on through 'data'.

import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';

/** What `net` keeps in a socket beside its public interface. */
type SocketInternals = Record<symbol, unknown> & {
  readonly _handle: { readonly useUserBuffer?: (buffer: Buffer) => void } | null;
};

type Receive = (length: number, buffer: Buffer) => boolean;

let bufferKey: symbol | undefined;
let receiveKey: symbol | undefined;
let proving: Promise<boolean> | undefined;
let proved = false;

/**
 * From the next read on `receive` gets the bytes, valid until it returns, and there is no 'data' any more; false if
 * that cannot be, and nothing changes. Nothing may wait unread in the socket. What was decrypted already may still come
 * after a pause.
 */
export function readInto(socket: Socket, buffer: Buffer, receive: Receive): boolean {
  return proved && socket.readableLength === 0 && redirect(socket, buffer, receive);
}

function redirect(socket: Socket, buffer: Buffer, receive: Receive): boolean {
  const internals = socket as unknown as SocketInternals;
  const handle = internals._handle;
  if (bufferKey === undefined || receiveKey === undefined || typeof handle?.useUserBuffer !== 'function') {
    return false;
  }
  handle.useUserBuffer(buffer);
  internals[bufferKey] = buffer;
  internals[receiveKey] = receive;
  return true;
}

/** Whether it works here; tried once per thread. */
export function proveUserBuffer(log: Log): Promise<boolean> {
  proving ??= tryOnce().then(
    (works) => {
      proved = works;
      if (!works)
        log.warn({}, 'encrypted sockets cannot read into a buffer of ours here; reading costs more');
      return works;
    },
    (error: unknown) => {
      log.warn(
        { error: errorMessage(error) },
        'encrypted sockets cannot read into a buffer of ours here; reading costs more',
      );
      return false;
    },
  );
  return proving;
}

/** TLS between two sockets of this process: bytes, a pause and the end must arrive through the buffer. */
function tryOnce(): Promise<boolean> {
  for (const key of Object.getOwnPropertySymbols(new Socket())) {
    if (key.description === 'kBuffer') bufferKey = key;
    if (key.description === 'kBufferCb') receiveKey = key;
  }
  const key = randomBytes(32);
  // A key that both know: there is no certificate for this.
  const psk = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;
  // An abstract socket: no port, no file, nobody else's namespace.
  const path = `\0nodemesh-${process.pid}-${randomUUID()}`;
  const buffer = Buffer.allocUnsafeSlow(16_384);
  const raw = createServer();
  const secure = createTlsServer({ ...psk, pskCallback: () => key });
  let client: TLSSocket | undefined;
  return new Promise<boolean>((resolve, reject) => {
    secure.on('tlsClientError', reject);
    secure.on('secureConnection', (socket) => {
      let text = '';
      let rest = false;
      const works = redirect(socket, buffer, (length, read) => {
        text += read.toString('latin1', 0, length);
        if (text === 'one') {
          socket.pause();
          setImmediate(() => {
            rest = true;
            socket.resume();
            client?.end('two');
          });
        }
        return true;
      });
      socket.on('data', () => resolve(false));
      socket.on('error', reject);
      socket.on('close', () => resolve(false));
      socket.on('end', () => {
        resolve(works && rest && text === 'onetwo');
        socket.destroy();
      });
    });
    raw.on('connection', (socket) => secure.emit('connection', socket));
    raw.on('error', reject);
    raw.listen({ path }, () => {
      client = connectTls({
        ...psk,
        socket: new Socket().connect({ path }),
        checkServerIdentity: () => undefined,
        pskCallback: () => ({ psk: key, identity: 'proof' }),
      });
      client.on('error', reject);
      client.write('one');
    });
  }).finally(() => {
    client?.destroy();
    raw.close();
  });
}
