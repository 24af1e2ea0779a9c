// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import { type Admin, createAdmin } from './admin.ts';

const freePort = async (): Promise<number> => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  assert.ok(typeof address === 'object' && address !== null);
  return address.port;
};

describe('the doors of the agent', () => {
  let folder: string;
  let port: number;
  let missing: string | undefined;
  let admin: Admin;
  const options = () => ({
    host: '127.0.0.1',
    port,
    socketPath: join(folder, 'run', 'agent.sock'),
    metrics: () => Promise.resolve('up 1\n'),
    notReady: () => missing,
    state: () => ({ pods: [] }),
    log: silentLog,
  });
  const fetchText = (
    where: object,
  ): Promise<{ status: number | undefined; text: string; type: string | undefined }> =>
    new Promise((resolve, reject) => {
      get({ agent: false, ...where }, (response: IncomingMessage) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          text += part;
        });
        response.on('end', () =>
          resolve({ status: response.statusCode, text, type: response.headers['content-type'] }),
        );
      }).on('error', reject);
    });

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-admin-'));
    port = await freePort();
    missing = undefined;
    admin = await createAdmin(options());
  });
  afterEach(async () => {
    await admin.close();
    rmSync(folder, { recursive: true });
  });

  it('serves metrics, liveness and readiness on the node address and nothing else', async () => {
    const at = (path: string) => fetchText({ host: '127.0.0.1', port, path });
    assert.deepEqual(await at('/metrics'), {
      status: 200,
      text: 'up 1\n',
      type: 'text/plain; version=0.0.4; charset=utf-8',
    });
    assert.equal((await at('/live')).status, 200);
    assert.equal((await at('/ready')).status, 200);
    missing = 'no certificate';
    assert.deepEqual([(await at('/ready')).status, (await at('/ready')).text], [503, 'no certificate\n']);
    for (const path of ['/state', '/shutdown', '/proxy-log-level', '/'])
      assert.equal((await at(path)).status, 404);
  });

  it('shows its state to root only, on a socket that goes away with it', async () => {
    const { socketPath } = options();
    assert.equal(statSync(socketPath).mode & 0o777, 0o600);
    assert.equal(statSync(join(folder, 'run')).mode & 0o777, 0o700);
    const { text } = await fetchText({ socketPath, path: '/state' });
    assert.deepEqual(JSON.parse(text), { pods: [] });
    await admin.close();
    assert.equal(existsSync(socketPath), false);
  });

  it('names the address that is taken', async () => {
    await assert.rejects(createAdmin(options()), /cannot listen on 127\.0\.0\.1:\d+.*EADDRINUSE/);
  });
});
