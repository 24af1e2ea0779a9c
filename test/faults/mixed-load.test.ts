// SPDX-License-Identifier: Apache-2.0
// The mixed load tells the truth, on this machine's loopback: every protocol is answered, every loss is seen and judged.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type Loss, startMixed } from './mixed-engine.ts';
import { type ClientReport, death, handOver, mixedComplaints, mixedSummary, opening } from './mixed.ts';
import { mixedKinds } from './mixed-talks.ts';
import { until } from './until.ts';

const each = <T>(value: T): Record<(typeof mixedKinds)[number], T> =>
  Object.fromEntries(mixedKinds.map((kind) => [kind, value])) as Record<(typeof mixedKinds)[number], T>;

/** Below those that the kernel gives to whoever asks for any: nobody takes them before they are used. */
async function freePorts(count: number): Promise<number[]> {
  const found = new Set<number>();
  while (found.size < count) {
    const port = randomInt(10_000, 30_000);
    if (!(await listens(port))) found.add(port);
  }
  return [...found];
}

const listens = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => resolve(false));
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });

describe('the mixed load', () => {
  it('holds and asks every protocol, and sees the loss of each when the server dies', async () => {
    const [httpPort = 0, http2Port = 0, tcpPort = 0, firstPort = 0] = await freePorts(4);
    const argv = [httpPort, http2Port, tcpPort, firstPort].map(String);
    const server = spawn(process.execPath, [join(import.meta.dirname, 'programs/mixed-server.ts'), ...argv]);
    await until('the server listens', 20_000, async () =>
      (await Promise.all([httpPort, http2Port, tcpPort, firstPort].map(listens))).every(Boolean),
    );
    const engine = startMixed({
      host: '127.0.0.1',
      httpPort,
      http2Port,
      tcpPort,
      firstPort,
      connections: each(2),
      periodMs: 200,
      rampMs: 100,
      timeoutMs: 20_000,
    });
    try {
      const beganMs = Date.now();
      await until('all are answered again and again', 20_000, () => {
        const { oldestAnswerMs } = engine.status();
        return oldestAnswerMs > beganMs + 1000;
      });
      assert.equal(engine.status().losses, 0);
      server.kill('SIGKILL');
      await once(server, 'exit');
      // Every connection, and what was tried again.
      await until('all are lost', 20_000, () => engine.status().open === 0 && engine.status().losses >= 64);
    } finally {
      server.kill('SIGKILL');
    }
    const report = engine.stop();
    assert.equal(report.wanted, 16);
    assert.equal(report.openMax, 16);
    for (const kind of mixedKinds) {
      assert.ok(report.answered[kind] >= 2, kind);
      assert.ok(
        report.lost.some(({ connection }) => connection === kind),
        `${kind} lost nothing`,
      );
    }
    assert.equal(mixedComplaints([{ ...report, client: 'here' }], []).length, mixedKinds.length);
  });

  it('an answer to somebody else is seen', async () => {
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      socket.on('data', () => socket.write('lie\n'));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const target = { host: '127.0.0.1', httpPort: port, http2Port: port, tcpPort: port, firstPort: port };
    const engine = startMixed({
      ...target,
      connections: { tcp: 1 },
      periodMs: 50,
      rampMs: 0,
      timeoutMs: 5_000,
    });
    await until('it is seen', 10_000, () => engine.status().losses > 0);
    assert.equal(engine.stop().lost[0]?.kind, 'wrong-nonce');
    server.close();
  });
});

describe('judging the mixed load', () => {
  const loss = (changes: Partial<Loss>): Loss => ({
    connection: 'tcp',
    kind: 'ended-idle',
    detail: 'FIN',
    askedMs: 0,
    atMs: 2000,
    served: 3,
    ...changes,
  });
  const report = (lost: readonly Loss[], client = 'near'): ClientReport => ({
    client,
    open: 8,
    wanted: 8,
    oldestAnswerMs: 0,
    losses: lost.length,
    answered: each(5),
    politeEnds: each(0),
    openMax: 8,
    lost,
    latencyMaxMs: 3,
  });
  const bad = (lost: readonly Loss[], ...windows: readonly ReturnType<typeof death>[]): number =>
    mixedComplaints([report(lost)], windows).length;

  it('a death spares what was held, not what was asked later, never a wrong answer', () => {
    const window = death('killed', 1000, 2000, 60_000);
    assert.equal(bad([loss({})], window), 0);
    assert.equal(bad([loss({ atMs: 900 })], window), 1);
    assert.equal(bad([loss({ kind: 'ended-asked', askedMs: 3900, atMs: 4500 })], window), 0);
    assert.equal(bad([loss({ kind: 'ended-asked', askedMs: 4100, atMs: 4500 })], window), 1);
    assert.equal(bad([loss({ kind: 'wrong-nonce' })], window), 1);
    assert.equal(bad([loss({ kind: 'bad-answer', askedMs: 1900, detail: '502 (x)' })], window), 0);
    assert.equal(bad([loss({ kind: 'bad-answer', askedMs: 1900, detail: '503 (x)' })], window), 1);
    const late = { kind: 'bad-answer', askedMs: 6000, detail: '502 (TLS handshake failed)' } as const;
    assert.equal(bad([loss({ ...late, atMs: 12_000 })], window), 0);
    assert.equal(bad([loss({ ...late, atMs: 8_000 })], window), 1);
  });

  it('an opening spares handshakes that took too long', () => {
    const window = opening(0, 20_000);
    assert.equal(bad([loss({ kind: 'ended-asked', atMs: 10_100, served: 0 })], window), 0);
    assert.equal(bad([loss({ kind: 'ended-asked', atMs: 5_000, served: 0 })], window), 1);
    assert.equal(bad([loss({ kind: 'ended-asked', atMs: 10_100 })], window), 1);
  });

  it('a hand-over spares long streams at its end only, and nothing of the others', () => {
    const window = handOver('upgrade', ['near'], 1000, 9000, 12_000);
    assert.equal(bad([loss({ atMs: 9100 }), loss({ atMs: 9100, connection: 'grpc-stream' })], window), 0);
    assert.equal(bad([loss({ atMs: 8000 })], window), 1);
    assert.equal(bad([loss({ atMs: 9600, askedMs: 9500, kind: 'ended-asked', served: 0 })], window), 1);
    assert.equal(bad([loss({ atMs: 9100, connection: 'http2' })], window), 1);
    const refused = loss({ connection: 'http2', kind: 'refused' });
    assert.equal(mixedComplaints([report([refused])], [window]).length, 0);
    assert.equal(mixedComplaints([report([refused], 'far')], [window]).length, 1);
    assert.equal(bad([loss({ atMs: 9100, connection: 'http1-new', kind: 'ended-asked' })], window), 1);
  });

  it('a protocol without an answer is a complaint; the summary says what each window cost', () => {
    assert.match(
      mixedComplaints([{ ...report([]), answered: each(0) }], [])[0] ?? '',
      /nothing was answered/,
    );
    const text = mixedSummary([report([loss({})])], [death('killed', 1000, 2000, 60_000)]);
    assert.match(text, /5 websocket.*killed: lost 1 tcp$/);
  });
});
