// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { resetSocket } from './reset.ts';

describe('resetting a socket', () => {
  let server: Server;
  before(async () => {
    server = createServer({ allowHalfOpen: true });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => server.close());

  /** Both ends of a connection; `error` comes once the far one has failed. */
  const pair = async (): Promise<{ near: Socket; far: Socket; error: Promise<string> }> => {
    const far = connect({ port: (server.address() as AddressInfo).port, allowHalfOpen: true });
    const [near] = (await once(server, 'connection')) as [Socket];
    near.on('error', () => undefined);
    const error = new Promise<string>((resolve, reject) => {
      far.on('error', (reason: NodeJS.ErrnoException) => resolve(reason.code ?? ''));
      far.on('close', () => reject(new Error('closed without an error')));
    });
    far.resume();
    return { near, far, error };
  };

  it('shows the peer an error, also where much waits to be written', async () => {
    const { near, error } = await pair();
    near.write(Buffer.alloc(16_777_216));
    resetSocket(near);
    await once(near, 'close');
    assert.equal(await error, 'ECONNRESET');
  });

  it('closes while a FIN is on its way, after the peer has ended', async () => {
    const { near, far, error } = await pair();
    near.resume();
    far.end();
    await once(near, 'end');
    near.end();
    resetSocket(near);
    await once(near, 'close');
    // The FIN may have been quicker than the reset.
    await error.catch(() => undefined);
    far.destroy();
  });
});
