// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { peerUid } from '#lib/net/peer-uid.ts';
import { type Admin, createAdmin } from './admin.ts';

describe('admin', () => {
  let directory = '';
  let socketPath = '';
  let admin: Admin;
  let ready = false;
  let uid: number | undefined;
  let metrics = async (): Promise<string> => 'a 1\n';

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'admin-'));
    socketPath = join(directory, 'agent.sock');
    admin = await createAdmin({
      host: '127.0.0.1',
      port: 0,
      socketPath,
      metrics: () => metrics(),
      notReady: () => (ready ? undefined : 'no certificate'),
      state: () => ({ pods: new Map([['uid', { generation: 7n }]]) }),
      selfCheck: () => Promise.resolve({ repairs: new Map([['a', 1]]) }),
      peerUid: (socket) => uid ?? peerUid(socket),
      clock: systemClock,
      log: silentLog,
    });
  });
  after(async () => {
    await admin.close();
    await rm(directory, { recursive: true });
  });

  const get = async (
    where: { port: number } | { socketPath: string },
    path: string,
    method = 'GET',
  ): Promise<{ status: number; text: string }> => {
    const sent = request({ host: '127.0.0.1', path, method, agent: false, ...where });
    sent.end();
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    let text = '';
    for await (const chunk of response) text += String(chunk);
    return { status: response.statusCode ?? 0, text };
  };

  test('the node port answers live, ready and metrics and nothing else', async () => {
    const port = { port: admin.port ?? 0 };
    assert.deepEqual(await get(port, '/live'), { status: 200, text: 'live\n' });
    assert.deepEqual(await get(port, '/ready'), { status: 503, text: 'not ready: no certificate\n' });
    ready = true;
    assert.deepEqual(await get(port, '/ready?x'), { status: 200, text: 'ready\n' });
    assert.deepEqual(await get(port, '/metrics'), { status: 200, text: 'a 1\n' });
    for (const path of ['/', '/state', '/shutdown', '/proxy-log-level', '/metrics/', '/env.json']) {
      assert.equal((await get(port, path)).status, 404, path);
      assert.equal((await get(port, path, 'POST')).status, 404, path);
    }
  });

  test('a failing exposition is an answer, not an end', async () => {
    metrics = () => Promise.reject(new Error('broken'));
    assert.equal((await get({ port: admin.port ?? 0 }, '/metrics')).status, 500);
    metrics = () => Promise.resolve('b 2\n');
    assert.equal((await get({ port: admin.port ?? 0 }, '/metrics')).text, 'b 2\n');
  });

  test('the state is on the Unix socket only, for the owner only', async () => {
    assert.equal((await stat(socketPath)).mode & 0o777, 0o600);
    const { status, text } = await get({ socketPath }, '/state');
    assert.equal(status, 200);
    assert.deepEqual(JSON.parse(text), { pods: { uid: { generation: '7' } } });
    assert.equal((await get({ socketPath }, '/metrics')).status, 404);
  });

  test('a self-check runs on POST, on the Unix socket only', async () => {
    assert.deepEqual(JSON.parse((await get({ socketPath }, '/self-check', 'POST')).text), {
      repairs: { a: 1 },
    });
    assert.equal((await get({ socketPath }, '/self-check')).status, 405);
    assert.equal((await get({ port: admin.port ?? 0 }, '/self-check', 'POST')).status, 404);
  });

  test('the Unix socket answers nobody but root, whatever the modes say', async () => {
    uid = 1000;
    await assert.rejects(get({ socketPath }, '/state'), /ECONNRESET|EPIPE|socket hang up/);
    uid = undefined;
    assert.equal((await get({ socketPath }, '/state')).status, 200);
  });

  test('garbage is refused and the next request served', async () => {
    const socket = connect({ port: admin.port ?? 0, host: '127.0.0.1' });
    socket.end(Buffer.from([0, 1, 2, 3, 22, 3, 1]));
    socket.resume();
    await once(socket, 'close');
    assert.equal((await get({ port: admin.port ?? 0 }, '/live')).status, 200);
  });

  test('a second agent of the node gets the port when the first gives it up, and leaves it its socket', async () => {
    const { port } = admin;
    assert.ok(port !== undefined);
    const second = await createAdmin({
      host: '127.0.0.1',
      port,
      socketPath,
      metrics: async () => Promise.resolve('second 1\n'),
      notReady: () => undefined,
      state: () => 'second',
      peerUid,
      clock: systemClock,
      log: silentLog,
    });
    try {
      assert.equal(second.port, undefined);
      assert.equal((await get({ socketPath }, '/state')).text, '"second"\n');
      await admin.release();
      while (second.port === undefined) await new Promise((resolve) => setImmediate(resolve));
      assert.equal((await get({ port }, '/metrics')).text, 'second 1\n');
      // The one that left took nothing of its successor's along.
      assert.equal((await get({ socketPath }, '/state')).text, '"second"\n');
    } finally {
      await second.close();
    }
    await admin.take();
    assert.equal((await get({ socketPath }, '/state')).status, 200);
  });
});
