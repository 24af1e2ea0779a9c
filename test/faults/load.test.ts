// SPDX-License-Identifier: Apache-2.0
// The load tells the truth: every fault of a server on this machine's loopback is seen, named and judged.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import { type Engine, type LoadOptions, parseAnswer, startEngine } from './load-engine.ts';
import { complaints, type Failure, type Report, summary } from './report.ts';
import { patientClock, until } from './until.ts';

/** Loads a server that treats each line or request head as `behave` says, until `enough` has been seen. */
async function loadUntil(
  enough: (engine: Engine) => Promise<unknown>,
  behave: (socket: Socket, nonce: string, count: number) => void,
  options: Partial<LoadOptions>,
): Promise<Report> {
  let count = 0;
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on('error', () => socket.destroy());
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const match = /x-nonce: (\w+)[^]*\r\n\r\n/.exec(text) ?? /^(\w+)\n/.exec(text);
      if (match === null) return;
      text = '';
      behave(socket, match[1] ?? '', ++count);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const engine = startEngine({
    host: '127.0.0.1',
    httpPort: port,
    tcpPort: port,
    rate: 100,
    connections: 2,
    kinds: ['http-kept'],
    timeoutMs: 300,
    ...options,
  });
  await enough(engine);
  const report = await engine.stop();
  for (const socket of open) socket.destroy();
  server.close();
  return report;
}

const loadOn = async (
  behave: (socket: Socket, nonce: string, count: number) => void,
  options: Partial<LoadOptions>,
  runMs = 600,
): Promise<Report> => loadUntil(() => new Promise((resolve) => setTimeout(resolve, runMs)), behave, options);

const http = (nonce: string): string => {
  const body = `${nonce} me\n`;
  return `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
};
const kindsOf = (report: Report): string[] => [...new Set(report.failures.map(({ kind }) => kind))].sort();

describe('load', () => {
  it('an honest server: everything succeeds at the rate, on every kind of connection', async () => {
    const report = await loadOn(
      (socket, nonce) => socket.write(http(nonce)),
      { kinds: ['http-new', 'http-kept'], rate: 200 },
      1000,
    );
    assert.deepEqual(complaints(report, { minRate: 150 }), []);
    assert.ok(report.byConnection['http-new'] > 50 && report.byConnection['http-kept'] > 50);
    assert.equal(report.keptMax, 2);
    assert.deepEqual(Object.keys(report.byServer), ['me']);
  });

  it('opaque lines and long streams', async () => {
    const lines = new Map<Socket, number>();
    // Both kept connections and both streams were asked twice.
    const enough = (): boolean => [...lines.values()].filter((count) => count >= 2).length === 4;
    const report = await loadUntil(
      async () => until('two lines of each', 20_000, enough),
      (socket, nonce) => {
        lines.set(socket, (lines.get(socket) ?? 0) + 1);
        socket.write(`${nonce} me\n`);
      },
      { kinds: ['tcp-new', 'tcp-kept'], streams: 2, timeoutMs: 20_000 },
    );
    assert.deepEqual(complaints(report, { minRate: 70 }), []);
    assert.ok(report.byConnection.stream >= 4, String(report.byConnection.stream));
  });

  it('is said to run when each kept connection and stream was answered, not when the first was', async () => {
    const answered = new Set<Socket>();
    let kept = 0;
    await loadUntil(
      async (engine) => {
        await until('it is said to run', 20_000, () => engine.everyConnectionAnswered() || undefined);
        kept = answered.size;
      },
      (socket, nonce) => {
        answered.add(socket);
        socket.write(`${nonce} me\n`);
      },
      { rate: 5, connections: 4, kinds: ['tcp-kept'], streams: 2, timeoutMs: 20_000 },
    );
    assert.equal(kept, 6);
  });

  const faults: readonly {
    readonly name: string;
    readonly behave: (socket: Socket, nonce: string, count: number) => void;
    readonly kinds?: LoadOptions['kinds'];
    readonly seen: string;
    readonly detail?: RegExp;
  }[] = [
    {
      name: 'a lie about a nonce',
      behave: (socket, nonce, count) => socket.write(http(count === 5 ? 'lie' : nonce)),
      seen: 'wrong-nonce',
      detail: /^lie instead of/,
    },
    {
      name: 'an answer of the proxy',
      behave: (socket, nonce, count) =>
        socket.write(
          count === 5
            ? 'HTTP/1.1 503 Service Unavailable\r\nl5d-proxy-error: service in fail-fast\r\ncontent-length: 0\r\n\r\n'
            : http(nonce),
        ),
      seen: 'bad-status',
      detail: /503 \(service in fail-fast\)/,
    },
    {
      name: 'a kept connection reset before the answer',
      behave: (socket, nonce, count) => (count === 5 ? socket.resetAndDestroy() : socket.write(http(nonce))),
      seen: 'reset-kept-before',
    },
    {
      name: 'a kept connection reset amid the answer',
      behave: (socket, nonce, count) => {
        if (count !== 5) return socket.write(http(nonce));
        return socket.write('HTTP/1.1 200 OK\r\n', () => setTimeout(() => socket.resetAndDestroy(), 50));
      },
      seen: 'reset-kept-amid',
    },
    {
      name: 'a new connection reset',
      kinds: ['http-new'],
      behave: (socket, nonce, count) => (count === 5 ? socket.resetAndDestroy() : socket.write(http(nonce))),
      seen: 'reset-new',
    },
    {
      name: 'a new connection closed without an answer',
      kinds: ['tcp-new'],
      behave: (socket, nonce, count) => (count === 5 ? socket.end() : socket.write(`${nonce} me\n`)),
      seen: 'eof',
    },
    {
      name: 'silence',
      behave: (socket, nonce, count) => count === 5 || socket.write(http(nonce)),
      seen: 'timeout',
    },
  ];
  for (const { name, behave, seen, detail, kinds } of faults) {
    it(`sees ${name}`, async () => {
      const report = await loadOn(behave, kinds === undefined ? {} : { kinds });
      assert.deepEqual(kindsOf(report), [seen]);
      if (detail !== undefined) assert.match(report.failures[0]?.detail ?? '', detail);
      assert.equal(complaints(report, { minRate: 1 }).length, 1);
      assert.deepEqual(complaints(report, { minRate: 1, allow: [{ kind: report.failures[0]!.kind }] }), []);
    });
  }

  it('sees a refused connection', async () => {
    const engine = startEngine({
      host: '127.0.0.1',
      httpPort: 1,
      tcpPort: 1,
      rate: 50,
      connections: 1,
      kinds: ['tcp-new', 'http-kept'],
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const report = await engine.stop();
    assert.deepEqual(kindsOf(report), ['refused']);
    assert.ok(
      complaints(report, { minRate: 1, allow: [{ kind: 'refused' }] })[0]?.startsWith('0.0 requests/s'),
    );
  });

  it('a stall is seen as latency and as a gap, not as a lower rate', async () => {
    let held: (() => void)[] = [];
    let holding = false;
    let over = false;
    const report = await loadUntil(
      async () => until('the stall is over', 20_000, () => over),
      (socket, nonce, count) => {
        const answer = (): void => void socket.write(http(nonce));
        if (count === 20) {
          holding = true;
          // By the clock of the load, for which pauses of this process hardly count.
          patientClock.after(400, () => {
            holding = false;
            over = true;
            for (const one of held) one();
            held = [];
          });
        }
        if (holding) held.push(answer);
        else answer();
      },
      { timeoutMs: 20_000 },
    );
    assert.equal(report.failed, 0);
    assert.ok(report.gapMaxMs >= 300, String(report.gapMaxMs));
    assert.ok(report.latencyMaxMs >= 300, String(report.latencyMaxMs));
    assert.match(complaints(report, { minRate: 50, gapMaxMs: 200 }).join(), /without a success/);
  });
});

describe('judging', () => {
  const failure = (kind: Failure['kind'], connection: Failure['connection']): Failure => ({
    dueMs: 1400,
    atMs: 1500,
    kind,
    connection,
    detail: '',
  });
  const report = (failures: readonly Failure[], failed = failures.length): Report => ({
    startedMs: 1000,
    endedMs: 2000,
    succeeded: 100,
    failed,
    failures,
    byConnection: { 'http-new': 100, 'http-kept': 0, 'tcp-new': 0, 'tcp-kept': 0, stream: 0 },
    byServer: {},
    keptMax: 0,
    gapMaxMs: 10,
    gapMaxAtMs: 0,
    latencyMaxMs: 1,
    latencyP99Ms: 1,
  });

  it('an allowance is for its kind, its connection and its number', () => {
    const resets = report([
      failure('reset-kept-before', 'http-kept'),
      failure('reset-kept-before', 'tcp-kept'),
    ]);
    const allow = [{ kind: 'reset-kept-before', connection: 'http-kept' }] as const;
    assert.match(
      complaints(resets, { minRate: 1, allow }).join(),
      /1 failures that are not allowed:\n {2}\+0\.50 s tcp-kept/,
    );
    assert.deepEqual(complaints(resets, { minRate: 1, allow: [{ kind: 'reset-kept-before' }] }), []);
    assert.equal(
      complaints(resets, { minRate: 1, allow: [{ kind: 'reset-kept-before', atMost: 1 }] }).length,
      1,
    );
  });

  it('failures beyond what was kept are never allowed; a low rate is a complaint', () => {
    assert.match(complaints(report([], 5), { minRate: 1 }).join(), /more than the 0 that were kept/);
    assert.match(complaints(report([]), { minRate: 101 }).join(), /100\.0 requests\/s/);
  });

  it('a summary counts failures by kind over all loads', () => {
    const reset = failure('reset-new', 'tcp-new');
    assert.equal(
      summary([report([reset, reset]), { ...report([]), latencyMaxMs: 2.4 }]),
      '200 requests answered, 2 failed (2 tcp-new reset-new); slowest answer 2 ms; longest time without an answer 10 ms',
    );
  });

  it('an answer is complete at every split point, not before', () => {
    const text = http('abc');
    for (let end = 0; end < text.length; end++)
      assert.equal(parseAnswer(text.slice(0, end), true), undefined);
    assert.deepEqual(parseAnswer(text, true), { answer: { nonce: 'abc', server: 'me' } });
  });
});
