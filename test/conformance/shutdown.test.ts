// SPDX-License-Identifier: Apache-2.0
// What a worker that drains lets finish, what it ends, and when it says that it is done.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { patientClock, until } from '../proxy/harness.ts';
import { ask, SERVER } from '../proxy/scene.ts';
import { createStage, fieldsOf, type Stage, statusOf, test } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

describe('shutdown', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => {
    stage.fresh();
    stage.scene.server.worker.handle({ type: 'resume' });
    stage.scene.server.sent.length = 0;
  });
  after(async () => stage.close());

  const drain = (graceMs: number): void => stage.scene.server.worker.handle({ type: 'drain', graceMs });
  const drained = (): boolean => stage.scene.server.sent.some(({ type }) => type === 'drained');

  test('C-108 idle connections of HTTP/1 are closed, the last answer of others says so', async () => {
    const idle = await stage.exchange('in', 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
    idle.server.write(OK);
    await idle.client.take('ok');
    const busy = await stage.exchange('in', 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
    drain(60_000);
    busy.server.write(OK);
    const answer = await busy.client.take('ok');
    assert.equal(fieldsOf(answer.slice(0, -2)).get('connection'), 'close');
    assert.equal(await busy.client.gone(), 'FIN');
    assert.equal(await idle.client.gone(), 'FIN');
    await until(drained, 'the end of draining');
  });
  test('C-109 the worker lives until an opaque stream ends', async () => {
    const client = await stage.opaqueClient();
    client.write('one\n');
    const server = await stage.opaqueApp.accept();
    await server.take('\n');
    drain(60_000);
    // Well behind what it does at once, and when it closes what is idle.
    const ended = patientClock.nowMs() + 6_500;
    await until(() => patientClock.nowMs() > ended, 'some seconds');
    server.write('two\n');
    assert.equal(await client.take('\n'), 'two\n');
    assert.equal(drained(), false);
    client.socket.end();
    server.socket.end();
    await until(drained, 'the end of draining');
  });
  test('C-447 a drain waits for an open WebSocket, up to its limit', async () => {
    const upgrade =
      'GET /ws HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n';
    const open = async () => {
      const tunnel = await stage.exchange('in', upgrade);
      tunnel.server.write(
        'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
      );
      assert.equal(statusOf(await tunnel.client.head()), 101);
      return tunnel;
    };
    const first = await open();
    drain(60_000);
    first.client.write('frame\n');
    assert.equal(await first.server.take('\n'), 'frame\n');
    assert.equal(drained(), false);
    await first.client.close();
    await until(() => first.server.ended || first.server.closed, 'the end at the application');
    first.server.socket.destroy();
    await until(drained, 'the end of draining');
    stage.scene.server.worker.handle({ type: 'resume' });
    stage.scene.server.sent.length = 0;
    const second = await open();
    drain(300);
    await until(drained, 'the limit');
    assert.equal(second.client.closed, false);
    await second.client.close();
  });
  test('C-448 ready during a drain', async () => {
    drain(60_000);
    for (const path of ['/ready', '/live']) {
      assert.equal((await ask({ host: SERVER, port: 4191, path })).status, 200, path);
    }
  });
});
