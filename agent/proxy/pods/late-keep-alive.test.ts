// SPDX-License-Identifier: Apache-2.0
// Read off the kernel: which connections it keeps alive.
import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { setAcceptedOptions } from '#lib/net/sockets.ts';
import { KEEPALIVE_MS, LateKeepAlive } from './late-keep-alive.ts';

/** What the kernel shows of the end of a connection that has this local port. */
const shown = (localPort: number | undefined): string =>
  execFileSync('ss', ['-Htnoi', 'state', 'established', `sport = :${localPort}`], { encoding: 'utf8' });

test('a dialled connection is kept alive from the first sweep on', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const keepAlive = new LateKeepAlive();
  const dial = async (): Promise<Socket> => {
    const socket = connect(port, '127.0.0.1');
    keepAlive.add(socket);
    await once(socket, 'connect');
    return socket;
  };
  const [lasting, brief] = [await dial(), await dial()];
  assert.doesNotMatch(shown(lasting.localPort), /keepalive/);
  brief.destroy();
  await once(brief, 'close');
  assert.equal(keepAlive.size, 1);
  keepAlive.sweep();
  assert.match(shown(lasting.localPort), /timer:\(keepalive,(9|10)/);
  lasting.destroy();
  server.close();
});

test('an accepted connection is kept alive from the start, by its listener', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { fd } = (server as unknown as { readonly _handle: { readonly fd: number } })._handle;
  setAcceptedOptions(fd, KEEPALIVE_MS / 1000);
  const { port } = server.address() as AddressInfo;
  const client = connect(port, '127.0.0.1');
  await once(server, 'connection');
  assert.match(shown(port), /timer:\(keepalive,(9|10)/);
  client.destroy();
  server.close();
});
