// SPDX-License-Identifier: Apache-2.0
// Which endpoint gets a request: by load, and not the one that fails. Requests come through an agent, one after another
// or many at once; what an endpoint answers is up to the scenario.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { RawPeer, RawServer } from '../../agent/proxy/exchange/raw-peers.ts';
import type { Destination, FailureAccrual } from '../../agent/proxy/model.ts';
import { endpoint, listenIn, patientClock, pause, until } from '../proxy/harness.ts';
import { PEER } from '../proxy/scene.ts';
import { createStage, type Stage, statusOf, test } from './stage.ts';

const PORTS = [7201, 7202, 7203] as const;
const accrual: FailureAccrual = { maxFailures: 3, minPenaltyMs: 1000, maxPenaltyMs: 8000, jitterRatio: 0 };
/** Timers may be a little early by another clock. */
const SLACK_MS = 20;

/** Answers every request by itself, and counts. */
class Backend {
  readonly server: RawServer;
  requests = 0;
  /** When the last one came: before the agent knows the answer, and after it chose to ask. */
  askedMs = 0;
  status = 200;
  /** Answers later. */
  delayMs = 0;

  constructor(server: RawServer) {
    this.server = server;
    server.onConnection = (peer) => void this.#serve(peer);
  }

  async #serve(peer: RawPeer): Promise<void> {
    try {
      for (;;) {
        await peer.head();
        this.requests++;
        this.askedMs = patientClock.nowMs();
        if (this.delayMs > 0) await pause(this.delayMs);
        peer.write(`HTTP/1.1 ${this.status} Word\r\nContent-Length: 0\r\n\r\n`);
      }
    } catch {
      // The end of the connection.
      peer.socket.destroy();
    }
  }
}

describe('balancing', () => {
  let stage: Stage;
  let backends: readonly [Backend, Backend, Backend];
  let services = 0;
  before(async () => {
    stage = await createStage();
    const [a, b, c] = await Promise.all(
      PORTS.map(async (port) => new Backend(await RawServer.listen(listenIn(stage.scene.home, PEER, port)))),
    );
    assert.ok(a !== undefined && b !== undefined && c !== undefined);
    backends = [a, b, c];
  });
  beforeEach(() => {
    stage.fresh();
    for (const backend of backends) {
      Object.assign(backend, { requests: 0, status: 200, delayMs: 0 });
    }
  });
  after(async () => {
    await stage.close();
    await Promise.all(backends.map(({ server }) => server.close()));
  });

  /** A service of the first `count` backends that no earlier scenario knows. */
  const lead = (count: number, changes: Partial<Extract<Destination, { kind: 'service' }>> = {}): void => {
    const endpoints = PORTS.slice(0, count).map((port) => endpoint(PEER, port));
    const service = stage.service(`balanced-${services++}`, endpoints);
    assert.ok(service.kind === 'service');
    stage.lead('other', { ...service, ...changes });
  };
  const ask = async (): Promise<number> => {
    const client = await stage.dial('other');
    client.write('GET / HTTP/1.1\r\nHost: balanced\r\nConnection: close\r\n\r\n');
    const status = statusOf(await client.head());
    await client.close();
    return status;
  };
  const times = async (count: number): Promise<number[]> => {
    const statuses: number[] = [];
    for (let request = 0; request < count; request++) statuses.push(await ask());
    return statuses;
  };
  const [first, second] = [0, 1];

  /** Asks until the backend was asked so often; answers when that was. The others are slow, so that it is preferred. */
  const askedUntil = async (backend: Backend, requests: number): Promise<number> => {
    const deadline = performance.now() + 40_000;
    for (const other of backends) other.delayMs = other === backend ? 0 : 100;
    while (backend.requests < requests) {
      assert.ok(performance.now() < deadline, `${backend.requests} requests, not ${requests}`);
      await ask();
      await pause(2);
    }
    assert.equal(backend.requests, requests);
    for (const other of backends) other.delayMs = 0;
    return backend.askedMs;
  };

  test('C-252 after failures in a row an endpoint is left out, and tried again later', async () => {
    lead(2, { accrual });
    const bad = backends[first] as Backend;
    bad.status = 500;
    const shutMs = await askedUntil(bad, 3);
    assert.deepEqual([...new Set(await times(10))], [200]);
    const triedMs = await askedUntil(bad, 4);
    assert.ok(triedMs - shutMs >= accrual.minPenaltyMs - SLACK_MS, `tried after ${triedMs - shutMs} ms`);
    // It is well: after one more pause it is back for good.
    bad.status = 200;
    await askedUntil(bad, 10);
  });
  test('C-230 a breaker shuts after failures in a row; a success in between begins the count anew', async () => {
    lead(1, { accrual });
    const only = backends[first] as Backend;
    for (const status of [500, 503, 200, 500, 500, 404, 500, 500]) {
      only.status = status;
      assert.equal(await ask(), status);
    }
    assert.equal(only.requests, 8);
    only.status = 500;
    assert.equal(await ask(), 500);
    // Nobody is left: the request waits for somebody, and the pause is over before the wait is.
    assert.equal(await ask(), 504, 'nobody is left to ask');
    assert.equal(only.requests, 9);
  });
  test('C-227 and C-232 open, shut, tried again after a pause, open again', async () => {
    lead(1, { accrual });
    const only = backends[first] as Backend;
    only.status = 500;
    assert.deepEqual(await times(3), [500, 500, 500]);
    assert.equal(await ask(), 504, 'shut: the wait of 300 ms is over before the pause is');
    assert.equal(await ask(), 503, 'and nobody waits any more');
    only.status = 200;
    await askedUntil(only, 4);
    assert.equal(await ask(), 200, 'tried, and open');
    assert.deepEqual(await times(5), [200, 200, 200, 200, 200], 'open');
  });
  test('C-233 a request tried without success makes the pause longer', async () => {
    lead(2, { accrual });
    const bad = backends[first] as Backend;
    bad.status = 500;
    const shutMs = await askedUntil(bad, 3);
    const firstMs = await askedUntil(bad, 4);
    const secondMs = await askedUntil(bad, 5);
    assert.ok(firstMs - shutMs >= accrual.minPenaltyMs - SLACK_MS, `${firstMs - shutMs} ms`);
    assert.ok(secondMs - firstMs >= 2 * accrual.minPenaltyMs - SLACK_MS, `${secondMs - firstMs} ms`);
  });
  test('C-234 a 429 to the request that is tried opens it again', async () => {
    lead(1, { accrual });
    const only = backends[first] as Backend;
    only.status = 500;
    await times(3);
    only.status = 429;
    await askedUntil(only, 4);
    assert.deepEqual(await times(3), [429, 429, 429]);
  });
  test('C-253 the balancer takes no endpoint whose breaker is shut, many requests at once', async () => {
    lead(3, { accrual: { ...accrual, minPenaltyMs: 60_000, maxPenaltyMs: 60_000 } });
    const [bad, other] = [backends[first] as Backend, backends[second] as Backend];
    bad.status = 500;
    other.status = 502;
    await askedUntil(bad, 3);
    if (other.requests < 3) await askedUntil(other, 3);
    bad.requests = 0;
    other.requests = 0;
    const statuses = await Promise.all(Array.from({ length: 40 }, ask));
    assert.deepEqual([...new Set(statuses)], [200]);
    assert.deepEqual([bad.requests, other.requests], [0, 0]);
  });
  test('C-236 without accrual an endpoint stays whatever it answers', async () => {
    lead(1);
    const only = backends[first] as Backend;
    only.status = 500;
    assert.deepEqual([...new Set(await times(20))], [500]);
    assert.equal(only.requests, 20);
  });
  test('an endpoint that refuses connections is left out too', async () => {
    const service = stage.service('refusing', [endpoint(PEER, PORTS[0]), endpoint(PEER, 7299)]);
    assert.ok(service.kind === 'service');
    stage.lead('other', { ...service, accrual: { ...accrual, minPenaltyMs: 60_000, maxPenaltyMs: 60_000 } });
    const deadline = performance.now() + 40_000;
    for (let failed = 0; failed < 3; ) {
      assert.ok(performance.now() < deadline, 'three that are refused');
      if ((await ask()) === 502) failed++;
    }
    assert.deepEqual([...new Set(await times(20))], [200]);
  });
  test('C-228 and C-229 breakers of endpoints and services that go leave no timer', async () => {
    lead(1, { accrual: { ...accrual, minPenaltyMs: 300, maxPenaltyMs: 300 } });
    const only = backends[first] as Backend;
    only.status = 500;
    await times(3);
    const lines = stage.scene.client.log.lines;
    const told = (): number =>
      lines.filter(({ message }) => message === 'an endpoint gets requests again').length;
    const before = told();
    // Another service: the endpoint goes, and its breaker with it.
    lead(2);
    await pause(500);
    assert.equal(told(), before);
    assert.deepEqual((await times(3)).length, 3);
  });
  test('an endpoint that is slow gets less', async () => {
    lead(2);
    const [slow, quick] = [backends[first] as Backend, backends[second] as Backend];
    slow.delayMs = 200;
    await times(30);
    assert.ok(slow.requests <= 3, `${slow.requests} of 30 to the slow one`);
    assert.ok(quick.requests >= 27);
  });
  test('endpoints come and go under load without a failed request', async () => {
    lead(3);
    const name = services;
    const load = { stopped: false };
    const failed: number[] = [];
    let done = 0;
    const clients = Array.from({ length: 6 }, async () => {
      while (!load.stopped) {
        const status = await ask();
        done++;
        if (status !== 200) failed.push(status);
      }
    });
    for (let round = 0; round < 20; round++) {
      const shown = PORTS.filter((_, index) => (round + 1) & (1 << index));
      const ports = shown.length === 0 ? PORTS.slice(0, 1) : shown;
      stage.lead(
        'other',
        stage.service(
          `churn-${name}`,
          ports.map((port) => endpoint(PEER, port)),
        ),
      );
      const enough = done + 12;
      await until(() => done >= enough, 'some requests');
    }
    load.stopped = true;
    await Promise.all(clients);
    assert.deepEqual(failed, []);
    assert.ok(backends.every(({ requests }) => requests > 10));
  });
});
