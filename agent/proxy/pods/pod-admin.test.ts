// SPDX-License-Identifier: Apache-2.0
// A pod's admin port on real sockets: what it answers, and how long it bears with whom.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import type { FromWorker } from '../model.ts';
import { RecordedMetrics } from '../exchange/loopback.ts';
import { PodAdmin } from './pod-admin.ts';
import type { PodState } from './pod-state.ts';

const CONNECTION_MS = 15_000;

describe("a pod's admin port", () => {
  const pod = { uid: 'uid-1' } as PodState;
  let clock: VirtualClock;
  let posted: FromWorker[];
  let admin: PodAdmin;
  let metricsAllowed: boolean;
  let metrics: RecordedMetrics;
  let server: Server;
  const clients: Socket[] = [];

  beforeEach(async () => {
    clock = new VirtualClock();
    posted = [];
    metricsAllowed = true;
    metrics = new RecordedMetrics();
    admin = new PodAdmin(
      (message) => {
        posted.push(message);
        if (message.type === 'pod-metrics-wanted') admin.onMetrics(message.ticket, `of ${message.uid}\n`);
      },
      clock,
      () => true,
    );
    server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) =>
      admin.serve(pod, socket, { metricsAllowed: () => metricsAllowed, metrics }),
    );
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
    server.close();
  });

  const dial = async (said: string): Promise<Socket> => {
    const accepted = once(server, 'connection');
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
    clients.push(client);
    client.on('error', () => client.destroy());
    client.write(said);
    await accepted;
    return client;
  };
  const answerTo = async (said: string): Promise<string> => {
    const client = await dial(said);
    let answer = '';
    client.on('data', (chunk: Buffer) => {
      answer += chunk.toString();
    });
    await once(client, 'close');
    return answer;
  };

  it("answers one request, with this pod's metrics, and closes", async () => {
    assert.match(
      await answerTo('GET /live HTTP/1.1\r\nhost: x\r\n\r\n'),
      /^HTTP\/1.1 200 [\s\S]*\r\n\r\nlive\n$/,
    );
    assert.match(await answerTo('GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n'), /\r\n\r\nof uid-1\n$/);
    assert.deepEqual(
      posted.map(({ type }) => type),
      ['pod-metrics-wanted'],
    );
  });

  it('keeps metrics from whom policy does not allow, and nothing else', async () => {
    metricsAllowed = false;
    assert.match(await answerTo('GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n'), /^HTTP\/1.1 403 /);
    assert.match(await answerTo('GET /ready HTTP/1.1\r\nhost: x\r\n\r\n'), /^HTTP\/1.1 200 /);
  });

  for (const [name, said] of [
    ['says nothing', ''],
    ['stops in the middle of its request', 'GET /live HTTP/1.1\r\nhost'],
  ] as const) {
    it(`cuts off who ${name}`, async () => {
      const client = await dial(said);
      client.resume();
      const closed = once(client, 'close');
      clock.advance(CONNECTION_MS - 1);
      assert.equal(client.destroyed, false);
      clock.advance(1);
      await closed;
      assert.equal(clock.pendingTimers, 0);
    });
  }
});
