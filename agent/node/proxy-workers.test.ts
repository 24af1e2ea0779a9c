// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import type {
  Destination,
  FromWorker,
  ListenerHandle,
  ToWorker,
  WorkerPod,
  WorkerStart,
} from '../proxy/model.ts';
import { createProxyWorkers, type ProxyWorkers, type ThreadUsage, type WorkerPort } from './proxy-workers.ts';

class FakeWorker extends EventEmitter {
  readonly sent: ToWorker[] = [];
  readonly start: WorkerStart;
  terminated = false;

  constructor(start: WorkerStart) {
    super();
    this.start = start;
  }

  postMessage(message: ToWorker): void {
    this.sent.push(message);
  }

  terminate(): Promise<number> {
    this.terminated = true;
    this.emit('exit', 1);
    return Promise.resolve(1);
  }

  beat(): void {
    Atomics.add(new Int32Array(this.start.beats), 0, 1);
  }

  say(message: FromWorker): void {
    this.emit('message', message);
  }
}

const pod: WorkerPod = {
  cluster: 'local',
  uid: 'a',
  namespace: 'shop',
  name: 'web',
  serviceAccount: 'web',
  identity: 'web.shop.serviceaccount.identity.linkerd.cluster.local',
  addresses: ['10.0.0.7'],
  ownerKind: '',
  ownerName: '',
  netnsFd: 9,
  podIndex: 1,
  generation: 1,
  startedAtSeconds: 0,
  opaquePorts: [],
  skipOutboundPorts: [],
  clientAddressOfProxy: false,
  connectTimeoutOutboundMs: 1000,
  connectTimeoutInboundMs: 100,
  detectTimeoutOutboundMs: 10_000,
  policies: {
    byPort: [],
    fallback: { protocol: 'detect', detectTimeoutMs: 10_000, authorizations: [], labels: {} },
  },
  probes: [],
};
const listeners: ListenerHandle[] = [0, 1, 2, 3].map((slot) => ({
  direction: 'inbound',
  family: 4,
  slot,
  fd: 100 + slot,
}));

describe('proxy workers', () => {
  let clock: VirtualClock;
  let spawned: FakeWorker[];
  let workers: ProxyWorkers;
  let swept: number;
  let refused: string[];
  let wedged: number[];
  let usages: Map<number, ThreadUsage>;
  let batches: { pieces: readonly string[]; done: () => void }[];
  let open: Map<number, number>;
  let discoveries: Map<string, { deliver: (destination: Destination) => void; closed: boolean }>;
  const worker = (index: number): FakeWorker => {
    const found = spawned[index];
    assert.ok(found);
    return found;
  };
  const slotsSent = (fake: FakeWorker): number[] =>
    fake.sent.flatMap((message) => (message.type === 'pod' ? message.listeners.map(({ slot }) => slot) : []));

  beforeEach(() => {
    clock = new VirtualClock();
    spawned = [];
    swept = 0;
    refused = [];
    wedged = [];
    usages = new Map();
    batches = [];
    open = new Map();
    discoveries = new Map();
    workers = createProxyWorkers({
      count: 2,
      spawn(start) {
        const fake = new FakeWorker(start);
        spawned.push(fake);
        return fake as unknown as WorkerPort;
      },
      start: { logLevel: 'info', sameNode: 'carrier', permitKey: '', kernel: undefined },
      accessLog: (pieces, done) => batches.push({ pieces, done }),
      anchorsPem: '',
      duplicate: (fd) => {
        open.set(fd + 1000, fd);
        return fd + 1000;
      },
      inodeOf: (fd) => open.get(fd),
      closeDuplicate: (fd) => open.delete(fd),
      descriptors: {
        make: () => new SharedArrayBuffer(8),
        sweep: () => {
          swept++;
        },
      },
      discover(key, _target, deliver) {
        const subscription = { deliver, closed: false };
        discoveries.set(key, subscription);
        return {
          close: () => {
            subscription.closed = true;
          },
        };
      },
      metricDefined: () => undefined,
      podMetrics: (uid) => Promise.resolve(`metrics of ${uid}`),
      applicationRefused: (uid) => refused.push(uid),
      usageOf: (thread) => usages.get(thread),
      wedged: (index) => wedged.push(index),
      clock,
      log: silentLog,
    });
  });

  it('says at most once a second, for all workers together, that an application refused', () => {
    workers.setPod(pod, listeners);
    worker(0).say({ type: 'application-refused', uid: 'a' });
    worker(1).say({ type: 'application-refused', uid: 'a' });
    worker(1).say({ type: 'application-refused', uid: 'unknown' });
    assert.deepEqual(refused, ['a']);
    clock.advance(999);
    workers.setPod(pod, listeners);
    worker(0).say({ type: 'application-refused', uid: 'a' });
    clock.advance(1);
    worker(0).say({ type: 'application-refused', uid: 'a' });
    assert.deepEqual(refused, ['a', 'a']);
  });

  it('takes a dropped certificate from all workers, and gives it to no successor', () => {
    const certificate = { identity: 'id', chainPem: '', keyPem: '', notAfterMs: 0 } as unknown as Parameters<
      ProxyWorkers['setCertificate']
    >[0];
    workers.setCertificate(certificate);
    workers.dropCertificate('id');
    workers.dropCertificate('never there');
    for (const index of [0, 1])
      assert.deepEqual(worker(index).sent.at(-1), { type: 'certificate-dropped', identity: 'id' });
    worker(0).emit('exit', 1);
    clock.advance(100);
    assert.deepEqual(
      worker(2).sent.filter(({ type }) => type === 'certificate'),
      [],
    );
  });

  it('divides the slots of a pod between the workers, as duplicates', () => {
    workers.setPod(pod, listeners);
    assert.deepEqual(slotsSent(worker(0)), [0, 2]);
    assert.deepEqual(slotsSent(worker(1)), [1, 3]);
    const [message] = worker(0).sent;
    assert.equal(message?.type === 'pod' ? message.listeners[0]?.fd : undefined, 1100);
  });

  it('sends a changed pod without listeners', () => {
    workers.setPod(pod, listeners);
    workers.setPod({ ...pod, generation: 2 }, listeners);
    assert.deepEqual(slotsSent(worker(0)), [0, 2]);
    assert.equal(worker(0).sent.length, 2);
  });

  it('gives the successor of an ended worker the same slots and certificates', () => {
    workers.setCertificate({ identity: 'x', chainPem: '', keyPem: '', notAfterMs: 1 });
    workers.setPod(pod, listeners);
    worker(1).emit('exit', 1);
    clock.advance(100);
    assert.equal(spawned.length, 3);
    assert.equal(worker(2).start.workerIndex, 1);
    assert.deepEqual(slotsSent(worker(2)), [1, 3]);
    assert.equal(worker(2).sent[0]?.type, 'certificate');
    assert.equal(swept, 1);
    assert.equal(workers.replaced.exited, 1);
  });

  it('counts a worker as serving from its word that it is ready to its end', () => {
    assert.equal(workers.serving, 0);
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    assert.equal(workers.serving, 2);
    worker(1).emit('exit', 1);
    assert.equal(workers.serving, 1);
    clock.advance(100);
    assert.equal(workers.serving, 1);
    worker(2).say({ type: 'ready' });
    assert.equal(workers.serving, 2);
  });

  it('lends the slots of an ended worker to one that serves until its successor does', () => {
    const fds = (fake: FakeWorker): number[] =>
      fake.sent.flatMap((message) => (message.type === 'pod' ? message.listeners.map(({ fd }) => fd) : []));
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    workers.setPod(pod, listeners);
    worker(1).emit('exit', 1);
    assert.deepEqual(slotsSent(worker(0)), [0, 2, 1, 3]);
    // A pod that comes meanwhile, too.
    workers.setPod({ ...pod, uid: 'b' }, listeners);
    assert.deepEqual(slotsSent(worker(0)).slice(4), [0, 1, 2, 3]);
    clock.advance(100);
    assert.deepEqual(slotsSent(worker(2)), [1, 3, 1, 3]);
    assert.ok(worker(0).sent.every(({ type }) => type !== 'slots-back'));
    worker(2).say({ type: 'ready' });
    assert.deepEqual(worker(0).sent.at(-1), { type: 'slots-back', owner: 1 });
    // Numbers that both were given stay open when the helper ends: the successor holds them.
    worker(0).emit('exit', 1);
    for (const fd of fds(worker(2)).slice(0, 4)) assert.ok(open.has(fd), String(fd));
    assert.deepEqual(slotsSent(worker(2)).slice(4), [0, 2, 0, 2]);
  });

  it('asks the next one when the helper ends, and nobody when nobody serves', () => {
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    workers.setPod(pod, listeners);
    worker(1).emit('exit', 1);
    worker(0).emit('exit', 1);
    clock.advance(100);
    // Both start anew, each with its own.
    assert.deepEqual(slotsSent(worker(2)), [1, 3]);
    assert.deepEqual(slotsSent(worker(3)), [0, 2]);
    worker(2).say({ type: 'ready' });
    worker(3).say({ type: 'ready' });
    assert.ok(spawned.every(({ sent }) => sent.every(({ type }) => type !== 'slots-back')));
  });

  it('closes the listeners that an ended worker had not taken, and no others that have their numbers', () => {
    workers.setPod(pod, listeners);
    assert.deepEqual([...open.keys()], [1100, 1102, 1101, 1103]);
    // Taken: closed with the worker, and the number is another socket's already.
    open.set(1101, 7);
    worker(1).emit('exit', 1);
    assert.deepEqual([...open.keys()], [1100, 1102, 1101]);
    // Nothing is made for nobody.
    workers.setPod({ ...pod, uid: 'b' }, []);
    workers.setPod({ ...pod, uid: 'c' }, [{ direction: 'inbound', family: 4, slot: 1, fd: 201 }]);
    assert.equal(open.has(1201), false);
    clock.advance(100);
    assert.equal(open.has(1201), true);
  });

  it('ends a worker that is silent for two seconds, and only that one', () => {
    for (let step = 0; step < 40; step++) {
      worker(0).beat();
      if (step < 24) worker(1).beat();
      clock.advance(500);
      if (spawned.length > 2) break;
    }
    assert.equal(worker(1).terminated, true);
    assert.equal(worker(0).terminated, false);
    assert.equal(workers.replaced.silent, 1);
    assert.deepEqual(wedged, []);
  });

  it('time in which this thread itself stood still is no silence of its workers', () => {
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    for (let step = 0; step < 60; step++) {
      worker(0).beat();
      if (step % 2 === 0) worker(1).beat();
      // As when the whole machine is paused: timers run late, and none of the workers had its turn yet.
      clock.stall(step % 2 === 0 ? 500 : 3_000);
    }
    assert.equal(workers.replaced.silent, 0);
    assert.ok(!worker(0).terminated && !worker(1).terminated);
  });

  it('a worker that waits for a processor is silent only for as long as it was given one', () => {
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    new Int32Array(worker(1).start.beats)[1] = 17;
    const pass = (steps: number, usedMs: number, runnable: boolean): void => {
      for (let step = 0; step < steps; step++) {
        usages.set(17, { usedMs: (usages.get(17)?.usedMs ?? 0) + usedMs, runnable });
        worker(0).beat();
        clock.advance(500);
      }
    };
    // The grace time of its start, and what it may be silent.
    for (let step = 0; step < 24; step++) {
      worker(1).beat();
      pass(1, 50, true);
    }
    pass(30, 50, true);
    assert.equal(worker(1).terminated, false, '1.5 s of a processor in 15 s');
    pass(12, 50, true);
    assert.equal(worker(1).terminated, true, '2.1 s');
  });

  it('a worker that sleeps without a beat is silent all that time', () => {
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    new Int32Array(worker(1).start.beats)[1] = 17;
    usages.set(17, { usedMs: 0, runnable: false });
    for (let step = 0; step < 30 && !worker(1).terminated; step++) {
      worker(0).beat();
      if (step < 22) worker(1).beat();
      clock.advance(500);
    }
    assert.equal(worker(1).terminated, true);
  });

  it('lends the slots of a silent worker at once, and gives the process up when its thread does not end', () => {
    for (const index of [0, 1]) worker(index).say({ type: 'ready' });
    workers.setPod(pod, listeners);
    let ended = 0;
    worker(1).terminate = () => {
      ended++;
      return Promise.resolve(1);
    };
    const pass = (steps: number): void => {
      for (let step = 0; step < steps; step++) {
        worker(0).beat();
        clock.advance(500);
      }
    };
    pass(26);
    assert.deepEqual(slotsSent(worker(0)), [0, 2, 1, 3]);
    assert.equal(workers.serving, 1);
    assert.deepEqual(wedged, []);
    pass(30);
    assert.equal(ended, 1);
    assert.equal(workers.replaced.silent, 1);
    assert.ok(wedged.length > 0 && wedged.every((index) => index === 1));
    // It ends after all: its successor takes the slots, which nobody is lent a second time.
    worker(1).emit('exit', 1);
    clock.advance(100);
    worker(2).say({ type: 'ready' });
    assert.deepEqual(slotsSent(worker(0)), [0, 2, 1, 3]);
    assert.deepEqual(worker(0).sent.at(-1), { type: 'slots-back', owner: 1 });
  });

  it('shares one discovery between workers, tells late ones what is known, ends it when nobody wants it', () => {
    const discover = {
      type: 'discover',
      key: 'shop|10.96.0.1:80',
      namespace: 'shop',
      ip: '10.96.0.1',
      port: 80,
    } as const;
    worker(0).say(discover);
    discoveries.get(discover.key)?.deliver({ kind: 'unknown' });
    worker(1).say(discover);
    const answer = { type: 'destination', key: discover.key, destination: { kind: 'unknown' } };
    assert.deepEqual(worker(0).sent, [answer]);
    assert.deepEqual(worker(1).sent, [answer]);
    assert.equal(discoveries.size, 1);
    worker(0).say({ type: 'forget', key: discover.key });
    assert.equal(discoveries.get(discover.key)?.closed, false);
    worker(1).say({ type: 'forget', key: discover.key });
    assert.equal(discoveries.get(discover.key)?.closed, true);
  });

  it('waits at removal for the word of each worker, but not for ever and not for a dead one', async () => {
    workers.setPod(pod, listeners);
    let removed = false;
    const removal = workers.removePod('a').then(() => {
      removed = true;
    });
    const last = worker(0).sent.at(-1);
    assert.ok(last?.type === 'pod-removed');
    worker(0).say({ type: 'pod-gone', uid: 'a', ticket: last.ticket });
    await Promise.resolve();
    assert.equal(removed, false);
    worker(1).emit('exit', 1);
    await removal;
    workers.setPod(pod, listeners);
    const late = workers.removePod('a');
    clock.advance(2_000);
    await late;
  });

  it('stops accepting for another agent, hands out no listeners meanwhile, and all of them to go on', () => {
    workers.setPod(pod, listeners);
    workers.stopAccepting();
    assert.deepEqual(worker(0).sent.at(-1), { type: 'stop-accepting' });
    workers.setPod({ ...pod, uid: 'b' }, listeners);
    worker(0).emit('exit', 1);
    clock.advance(200);
    assert.deepEqual(slotsSent(worker(2)), []);
    workers.resume();
    assert.deepEqual(slotsSent(worker(2)), [0, 2, 0, 2]);
    assert.deepEqual(slotsSent(worker(1)), [1, 3, 1, 3, 1, 3]);
  });

  it('hands out a listener that takes the place of another, and no known one again', () => {
    workers.setPod(pod, listeners);
    const fresh: ListenerHandle = { direction: 'inbound', family: 4, slot: 2, fd: 202 };
    workers.setPod(pod, [...listeners.filter(({ slot }) => slot !== 2), fresh]);
    assert.deepEqual(slotsSent(worker(0)), [0, 2, 2]);
    assert.deepEqual(slotsSent(worker(1)), [1, 3]);
  });

  it('waits at a drain for every worker, not for one that has ended, and replaces that one even then', async () => {
    workers.setPod(pod, listeners);
    worker(1).emit('exit', 1);
    const drain = workers.drain(5_000);
    assert.deepEqual(worker(0).sent.at(-1), { type: 'drain', graceMs: 5_000 });
    clock.advance(100);
    assert.deepEqual(slotsSent(worker(2)), [1, 3]);
    worker(0).say({ type: 'drained' });
    await drain;
  });

  it("answers a pod's scrape through the worker that asked", async () => {
    worker(1).say({ type: 'pod-metrics-wanted', ticket: 7, uid: 'a', exposition: 'text' });
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(worker(1).sent, [{ type: 'pod-metrics', ticket: 7, text: 'metrics of a' }]);
  });

  it('access log lines are written for a worker, which hears when the next may come', () => {
    const fake = worker(0);
    fake.emit('message', { type: 'access-log', pieces: ['a line\n'] });
    assert.deepEqual(batches[0]?.pieces, ['a line\n']);
    assert.ok(!fake.sent.some(({ type }) => type === 'access-log-written'));
    batches[0].done();
    assert.ok(fake.sent.some(({ type }) => type === 'access-log-written'));
  });

  describe('a connection for another worker', () => {
    const connection = {
      to: 1,
      uid: 'u1',
      fd: 77,
      direction: 'inbound',
      protocol: 'http2',
      first: null,
    } as const;
    const given = (fake: FakeWorker): number[] =>
      fake.sent.flatMap((message) => (message.type === 'connection' ? [message.connection.fd] : []));
    const loads = (): Int32Array => new Int32Array(worker(0).start.loads as SharedArrayBuffer);
    beforeEach(() => {
      open.set(77, 1);
      // As the worker does that hands it over.
      Atomics.add(loads(), 1, 1);
    });

    it('is passed on, and closed if that one ends before it took it', () => {
      for (const index of [0, 1]) worker(index).say({ type: 'ready' });
      worker(0).say({ type: 'connection', connection });
      assert.deepEqual(given(worker(1)), [77]);
      assert.deepEqual([...workers.longConnections], [0, 1]);
      void worker(1).terminate();
      assert.equal(open.has(77), false);
      assert.deepEqual([...workers.longConnections], [0, 0]);
    });

    it('stays open once it was taken', () => {
      for (const index of [0, 1]) worker(index).say({ type: 'ready' });
      worker(0).say({ type: 'connection', connection });
      worker(1).say({ type: 'connection-taken', fd: 77 });
      void worker(1).terminate();
      assert.equal(open.has(77), true);
    });

    it('goes back while that one does not serve', () => {
      worker(0).say({ type: 'ready' });
      worker(0).say({ type: 'connection', connection });
      assert.deepEqual(given(worker(0)), [77]);
      assert.deepEqual([...workers.longConnections], [1, 0]);
    });
  });
});
