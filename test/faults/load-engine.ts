// SPDX-License-Identifier: Apache-2.0
// The load itself: requests at a fixed rate, whatever became of the earlier ones, over new and over kept
// connections, each with a nonce that the answer must repeat. Plain sockets, because a client library would hide
// which byte came before a connection broke. Runs in a pod (programs/load-client.ts) or in a test. Where it judges how
// long something took, time in which it was given no turn itself (a busy or paused machine) does not count.

import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { errnoName } from '#lib/core/errors.ts';
import { PatientClock } from '#lib/core/patient-clock.ts';
import type { Timer } from '#lib/core/clock.ts';
import type { ConnectionKind, Failure, FailureKind, Report } from './report.ts';

export interface LoadOptions {
  readonly host: string;
  readonly httpPort: number;
  readonly tcpPort: number;
  /** Requests per second over all kinds together. */
  readonly rate: number;
  /** Kept connections of each kept kind. */
  readonly connections: number;
  readonly kinds: readonly Exclude<ConnectionKind, 'stream'>[];
  /** Long TCP streams, one line each 200 ms, never opened anew unless they break. */
  readonly streams?: number;
  readonly timeoutMs?: number;
}

export interface Engine {
  /** Whether each kind of request was answered, and on each of the connections that are kept. */
  everyConnectionAnswered(): boolean;
  /** Lets what is under way end, then reports. */
  stop(): Promise<Report>;
}

const FAILURES_KEPT = 10_000;
const LATENCIES_KEPT = 1_000_000;
const WAITING_MAX = 50_000;
const STREAM_PERIOD_MS = 200;
const TICK_MS = 5;
const TIMEOUT_MS = 5000;

interface Asked {
  readonly kind: ConnectionKind;
  readonly nonce: string;
  readonly dueMs: number;
  /** By the patient clock. */
  readonly untilMs: number;
}

interface Answer {
  readonly nonce: string;
  readonly server: string;
}

type Parsed = { readonly answer: Answer } | { readonly bad: string } | undefined;

const isHttp = (kind: ConnectionKind): boolean => kind.startsWith('http');
const isKept = (kind: ConnectionKind): boolean => !kind.endsWith('-new');

const words = (line: string): Answer => {
  const [nonce = '', server = ''] = line.trim().split(' ');
  return { nonce, server };
};

/** One whole answer, or what is wrong with it; undefined while it is not complete. */
export function parseAnswer(text: string, http: boolean): Parsed {
  if (!http) {
    const end = text.indexOf('\n');
    return end < 0 ? undefined : { answer: words(text.slice(0, end)) };
  }
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const head = text.slice(0, end);
  const status = /^HTTP\/1\.1 (\d{3})/.exec(head)?.[1];
  if (status !== '200') {
    const error = /\r\nl5d-proxy-error: ([^\r]*)/i.exec(head)?.[1] ?? 'no l5d-proxy-error';
    return { bad: `${status ?? head.slice(0, 40)} (${error})` };
  }
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? Number.NaN);
  if (Number.isNaN(length)) return { bad: 'an answer without a length' };
  const body = text.slice(end + 4);
  return body.length < length ? undefined : { answer: words(body.slice(0, length)) };
}

export function startEngine(options: LoadOptions): Engine {
  const { host, rate, kinds, connections } = options;
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  const startedMs = Date.now();
  const clock = new PatientClock();
  const failures: Failure[] = [];
  const latencies: number[] = [];
  const byConnection = { 'http-new': 0, 'http-kept': 0, 'tcp-new': 0, 'tcp-kept': 0, stream: 0 };
  const byServer: Record<string, number> = {};
  let [failed, succeeded, underWay, latencyMaxMs, keptMax] = [0, 0, 0, 0, 0];
  let lastSuccess = { atMs: startedMs, countedMs: clock.nowMs() };
  let [gapMaxMs, gapMaxAtMs] = [0, startedMs];
  let stopping = false;
  let idle: (() => void) | undefined;

  const gap = (atMs: number): void => {
    const countedMs = clock.nowMs();
    const lastedMs = countedMs - lastSuccess.countedMs;
    if (lastedMs > gapMaxMs) [gapMaxMs, gapMaxAtMs] = [lastedMs, lastSuccess.atMs];
    lastSuccess = { atMs, countedMs };
  };
  const fail = (
    kind: FailureKind,
    connection: ConnectionKind,
    detail: string,
    dueMs: number = Date.now(),
  ): void => {
    failed++;
    if (failures.length < FAILURES_KEPT) failures.push({ dueMs, atMs: Date.now(), kind, connection, detail });
  };
  const succeed = (asked: Asked, server: string): void => {
    const nowMs = Date.now();
    succeeded++;
    byConnection[asked.kind]++;
    byServer[server] = (byServer[server] ?? 0) + 1;
    gap(nowMs);
    latencyMaxMs = Math.max(latencyMaxMs, nowMs - asked.dueMs);
    if (latencies.length < LATENCIES_KEPT) latencies.push(nowMs - asked.dueMs);
  };
  const done = (): void => {
    underWay--;
    if (underWay === 0) idle?.();
  };

  class Connection {
    readonly kind: ConnectionKind;
    readonly socket: Socket;
    served = 0;
    #received = '';
    #asked: Asked | undefined;
    #timer: Timer | undefined;
    readonly #free: (connection: Connection, usable: boolean) => void;

    constructor(kind: ConnectionKind, free: (connection: Connection, usable: boolean) => void) {
      this.kind = kind;
      this.#free = free;
      const port = isHttp(kind) ? options.httpPort : options.tcpPort;
      this.socket = connect({ host, port, noDelay: true });
      this.socket.setEncoding('latin1');
      this.socket.on('data', (text: string) => this.#read(text));
      this.socket.on('error', (error) => this.#broke(errnoName(error) ?? error.message));
      this.socket.on('end', () => this.#broke('FIN'));
      this.socket.on('close', () => this.#broke('closed'));
    }

    ask(asked: Asked): void {
      this.#asked = asked;
      this.#received = '';
      this.#timer = clock.after(Math.max(0, asked.untilMs - clock.nowMs()), () =>
        this.#end('timeout', `after ${Date.now() - asked.dueMs} ms`),
      );
      const last = isKept(this.kind) ? '' : 'connection: close\r\n';
      this.socket.write(
        isHttp(this.kind)
          ? `GET /echo HTTP/1.1\r\nhost: ${host}:${options.httpPort}\r\nx-nonce: ${asked.nonce}\r\n${last}\r\n`
          : `${asked.nonce}\n`,
      );
    }

    #read(text: string): void {
      const asked = this.#asked;
      if (asked === undefined) {
        fail('wrong-nonce', this.kind, `bytes that nobody asked for: ${text.slice(0, 60)}`);
        return this.#let(false);
      }
      this.#received += text;
      const parsed = parseAnswer(this.#received, isHttp(this.kind));
      if (parsed === undefined) return;
      if ('bad' in parsed) return this.#end('bad-status', parsed.bad);
      if (parsed.answer.nonce !== asked.nonce) {
        return this.#end('wrong-nonce', `${parsed.answer.nonce} instead of ${asked.nonce}`);
      }
      this.served++;
      this.#asked = undefined;
      this.#timer?.cancel();
      succeed(asked, parsed.answer.server);
      done();
      // A server that says so closes after the answer: what is asked there would be lost.
      const closes = isHttp(this.kind) && /\r\nconnection: close\r\n/i.test(this.#received);
      this.#let(isKept(this.kind) && !closes);
    }

    #broke(how: string): void {
      if (this.#asked === undefined) return this.#let(false);
      if (how === 'ECONNREFUSED') return this.#end('refused', how);
      if (how === 'ETIMEDOUT') return this.#end('timeout', how);
      const reset = how === 'ECONNRESET' || how === 'EPIPE';
      if (isKept(this.kind) && this.served > 0) {
        return this.#end(this.#received === '' ? 'reset-kept-before' : 'reset-kept-amid', how);
      }
      if (reset) return this.#end('reset-new', how);
      this.#end(how === 'FIN' || how === 'closed' ? 'eof' : 'other', how);
    }

    #end(kind: FailureKind, detail: string): void {
      const asked = this.#asked;
      if (asked === undefined) return;
      this.#asked = undefined;
      this.#timer?.cancel();
      fail(kind, this.kind, detail, asked.dueMs);
      done();
      this.#let(false);
    }

    #let(usable: boolean): void {
      if (!usable) this.socket.destroy();
      this.#free(this, usable);
    }
  }

  // Kept connections of one kind: `free` waits for requests, `waiting` for connections.
  const pools = new Map<ConnectionKind, { open: Set<Connection>; free: Connection[]; waiting: Asked[] }>();
  const serve = (kind: ConnectionKind): void => {
    const pool = pools.get(kind);
    if (pool === undefined) return;
    while (pool.waiting.length > 0) {
      // All of them are opened, and take turns: one that is idle for long is under test as well.
      let connection = pool.open.size < connections ? undefined : pool.free.shift();
      if (connection === undefined && pool.open.size < connections) {
        connection = new Connection(kind, (freed, usable) => {
          pool.free = pool.free.filter((one) => one !== freed);
          if (usable) pool.free.push(freed);
          else pool.open.delete(freed);
          setImmediate(serve, kind);
        });
        pool.open.add(connection);
        keptMax = Math.max(
          keptMax,
          [...pools.values()].reduce((sum, { open }) => sum + open.size, 0),
        );
      }
      const asked = connection === undefined ? undefined : pool.waiting.shift();
      if (connection === undefined || asked === undefined) return;
      connection.ask(asked);
    }
  };
  for (const kind of kinds) {
    if (isKept(kind)) pools.set(kind, { open: new Set(), free: [], waiting: [] });
  }

  const question = (kind: ConnectionKind, dueMs: number): Asked => ({
    kind,
    nonce: randomBytes(8).toString('hex'),
    dueMs,
    untilMs: clock.nowMs() + timeoutMs,
  });
  const request = (kind: ConnectionKind, dueMs: number): void => {
    const asked = question(kind, dueMs);
    const pool = pools.get(kind);
    if (pool !== undefined && pool.waiting.length >= WAITING_MAX) {
      return fail('timeout', kind, 'too many requests wait for a connection');
    }
    underWay++;
    if (pool === undefined) return new Connection(kind, () => undefined).ask(asked);
    pool.waiting.push(asked);
    serve(kind);
  };

  let sent = 0;
  const sendDue = (): void => {
    const due = ((Date.now() - startedMs) * rate) / 1000;
    while (sent < due) {
      const kind = kinds[sent % kinds.length];
      if (kind !== undefined) request(kind, startedMs + (sent * 1000) / rate);
      sent++;
    }
  };
  const ticks = setInterval(sendDue, TICK_MS);
  // Requests that wait for a kept connection longer than they may.
  const overdue = setInterval(() => {
    const nowMs = clock.nowMs();
    for (const [kind, pool] of pools) {
      while ((pool.waiting[0]?.untilMs ?? Infinity) < nowMs) {
        const asked = pool.waiting.shift();
        fail('timeout', kind, 'no connection became free', asked?.dueMs);
        done();
      }
    }
  }, 100);

  const streams = new Set<Connection>();
  const openStream = (): void => {
    let beat: NodeJS.Timeout | undefined;
    const line = (): void => {
      underWay++;
      stream.ask(question('stream', Date.now()));
    };
    const stream = new Connection('stream', (freed, usable) => {
      if (usable) {
        if (!stopping) beat = setTimeout(line, STREAM_PERIOD_MS);
        return;
      }
      clearTimeout(beat);
      if (!streams.delete(freed) || stopping) return;
      setTimeout(openStream, STREAM_PERIOD_MS);
    });
    streams.add(stream);
    line();
  };
  for (let index = 0; index < (options.streams ?? 0); index++) openStream();

  const answered = (all: ReadonlySet<Connection>): boolean => [...all].every(({ served }) => served > 0);
  return {
    everyConnectionAnswered: () =>
      kinds.every((kind) => byConnection[kind] > 0) &&
      [...pools.values()].every(({ open }) => open.size === connections && answered(open)) &&
      answered(streams),
    async stop() {
      stopping = true;
      const endedMs = Date.now();
      clearInterval(ticks);
      // What is due by now, also if this process had no turn for a while.
      sendDue();
      if (underWay > 0) await new Promise<void>((resolve) => (idle = resolve));
      clearInterval(overdue);
      if (endedMs > lastSuccess.atMs) gap(endedMs);
      for (const stream of streams) stream.socket.destroy();
      for (const pool of pools.values()) for (const connection of pool.open) connection.socket.destroy();
      latencies.sort((a, b) => a - b);
      return {
        startedMs,
        endedMs,
        succeeded,
        failed,
        failures,
        byConnection,
        byServer,
        keptMax,
        gapMaxMs,
        gapMaxAtMs,
        latencyMaxMs,
        latencyP99Ms: latencies[Math.floor(latencies.length * 0.99)] ?? 0,
      };
    },
  };
}
