// SPDX-License-Identifier: Apache-2.0
// The programs that make load: how they are called and what they say.

import { join } from 'node:path';
import { percentile } from './statistics.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface LoadResult {
  /** Requests, or MiB of a bulk transfer. */
  readonly units: number;
  readonly failures: number;
  readonly perSecond: number;
  /** NaN where the program does not say. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
}

export interface Load {
  /** In words, for the table. */
  readonly text: string;
  readonly unit: 'request' | 'MiB';
  command(target: Address, seconds: number): string[];
  /** Throws with what the program said if that is no report. */
  parse(text: string): LoadResult;
}

/** The gRPC-shaped request: a message of seven bytes, which the server answers with the same and trailers. */
const GRPC_MESSAGE = join(import.meta.dirname, 'peers', 'origin', 'bench.Echo', 'Unary.bin');
export const GRPC_PATH = '/bench.Echo/Unary.bin';

export function wrk(connections: number, options: { readonly close?: boolean } = {}): Load {
  const kept = options.close === true ? ', a connection each' : '';
  return {
    text: `wrk, ${connections} connection${connections === 1 ? '' : 's'}${kept}`,
    unit: 'request',
    command: ({ host, port }, seconds) => [
      'wrk',
      '--threads=1',
      `--connections=${connections}`,
      `--duration=${seconds}s`,
      '--timeout=10s',
      '--latency',
      ...(options.close === true ? ['--header=Connection: close'] : []),
      `http://${host}:${port}/`,
    ],
    parse: parseWrk,
  };
}

/** Answers that are not 2xx or 3xx and socket errors count as failures. */
export function parseWrk(text: string): LoadResult {
  const units = Number(/^\s*(\d+) requests in/m.exec(text)?.[1]);
  const perSecond = Number(/^Requests\/sec:\s+([\d.]+)/m.exec(text)?.[1]);
  if (!Number.isFinite(units) || !Number.isFinite(perSecond)) throw new Error(`wrk said:\n${text}`);
  const bad = Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0);
  const socket = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(text);
  const socketErrors = socket === null ? 0 : socket.slice(1).reduce((sum, count) => sum + Number(count), 0);
  return {
    units,
    failures: bad + socketErrors,
    perSecond,
    p50Ms: latency(text, '50%'),
    p99Ms: latency(text, '99%'),
    p999Ms: Number.NaN,
  };
}

function latency(text: string, row: string): number {
  const match = new RegExp(`^\\s+${row}\\s+([\\d.]+)(us|ms|s|m)$`, 'm').exec(text);
  const unitMs = { us: 0.001, ms: 1, s: 1000, m: 60_000 }[match?.[2] ?? ''];
  return unitMs === undefined ? Number.NaN : Number(match?.[1]) * unitMs;
}

export function h2load(clients: number, streams: number, options: { readonly grpc?: boolean } = {}): Load {
  const grpc = ['-d', GRPC_MESSAGE, '-H', 'content-type: application/grpc', '-H', 'te: trailers'];
  return {
    text: `h2load, ${clients} connections, ${streams} stream${streams === 1 ? '' : 's'}`,
    unit: 'request',
    command: ({ host, port }, seconds) => [
      'h2load',
      '-c',
      String(clients),
      '-m',
      String(streams),
      '-D',
      String(seconds),
      ...(options.grpc === true ? grpc : []),
      `http://${host}:${port}${options.grpc === true ? GRPC_PATH : '/'}`,
    ],
    parse: parseH2load,
  };
}

export function parseH2load(text: string): LoadResult {
  const counts =
    /^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout/m.exec(
      text,
    );
  const perSecond = Number(/^finished in [\d.]+\w+, ([\d.]+) req\/s/m.exec(text)?.[1]);
  if (counts === null || !Number.isFinite(perSecond)) throw new Error(`h2load said:\n${text}`);
  const [done = 0, succeeded = 0] = counts.slice(1).map(Number);
  const { NaN: none } = Number;
  return {
    units: done,
    // Neither failed nor errored ones are told apart from those that the end of the run cut off, which are not done.
    failures: done - succeeded,
    perSecond,
    p50Ms: none,
    p99Ms: none,
    p999Ms: none,
  };
}

const MIB = 1024 * 1024;

/** One stream from client to server, as fast as it goes. */
export const iperf3: Load = {
  text: 'iperf3, one stream',
  unit: 'MiB',
  command: ({ host, port }, seconds) => [
    'iperf3',
    '-J',
    '-c',
    host,
    '-p',
    String(port),
    '-t',
    String(seconds),
  ],
  parse: parseIperf3,
};

export function parseIperf3(text: string): LoadResult {
  const report = JSON.parse(text) as {
    readonly error?: string;
    readonly end?: { readonly sum_received?: { readonly bytes: number; readonly seconds: number } };
  };
  const sum = report.end?.sum_received;
  if (report.error !== undefined || sum === undefined) throw new Error(`iperf3 said:\n${text}`);
  const { NaN: none } = Number;
  return {
    units: sum.bytes / MIB,
    failures: 0,
    perSecond: sum.bytes / MIB / sum.seconds,
    p50Ms: none,
    p99Ms: none,
    p999Ms: none,
  };
}

/** Requests at random instants, whether or not earlier ones were answered (open-loop/open-loop.c). */
export function openLoop(perSecond: number, connections: number): Load {
  return {
    text: `open loop, ${perSecond}/s, ${connections} connections`,
    unit: 'request',
    command: ({ host, port }, seconds) => [
      join(import.meta.dirname, '..', 'build', 'open-loop'),
      host,
      String(port),
      String(perSecond),
      String(seconds),
      String(connections),
    ],
    parse: parseOpenLoop,
  };
}

/** A line of counts, then one of every latency in microseconds. */
export function parseOpenLoop(text: string): LoadResult {
  const [counts = '', latencies = ''] = text.split('\n');
  const match = /^(\d+) answered, (\d+) failed, ([\d.]+) s$/.exec(counts);
  if (match === null) throw new Error(`open-loop said:\n${text.slice(0, 1000)}`);
  const [units = 0, failures = 0, seconds = 0] = match.slice(1).map(Number);
  const ms = latencies
    .trim()
    .split(' ')
    .map((us) => Number(us) / 1000);
  return {
    units,
    failures,
    perSecond: units / seconds,
    p50Ms: percentile(ms, 0.5),
    p99Ms: percentile(ms, 0.99),
    p999Ms: percentile(ms, 0.999),
  };
}
