// SPDX-License-Identifier: Apache-2.0
// wrk: how it is called and what it says.

export interface Load {
  readonly connections: number;
  readonly seconds: number;
  readonly url: string;
}

export interface LoadResult {
  readonly requests: number;
  readonly failures: number;
  readonly requestsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export const wrkCommand = ({ connections, seconds, url }: Load): string[] => [
  'wrk',
  '--threads=1',
  `--connections=${connections}`,
  `--duration=${seconds}s`,
  '--timeout=10s',
  '--latency',
  url,
];

/** Reads wrk's report. Answers that are not 2xx or 3xx and socket errors count as failures. */
export function parseWrk(text: string): LoadResult {
  const requests = Number(/^\s*(\d+) requests in/m.exec(text)?.[1]);
  const perSecond = Number(/^Requests\/sec:\s+([\d.]+)/m.exec(text)?.[1]);
  if (!Number.isFinite(requests) || !Number.isFinite(perSecond)) throw new Error(`wrk said:\n${text}`);
  const bad = Number(/Non-2xx or 3xx responses: (\d+)/.exec(text)?.[1] ?? 0);
  const socket = /Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/.exec(text);
  const socketErrors = socket === null ? 0 : socket.slice(1).reduce((sum, count) => sum + Number(count), 0);
  return {
    requests,
    failures: bad + socketErrors,
    requestsPerSecond: perSecond,
    p50Ms: latency(text, '50%'),
    p99Ms: latency(text, '99%'),
  };
}

function latency(text: string, row: string): number {
  const match = new RegExp(`^\\s+${row}\\s+([\\d.]+)(us|ms|s|m)$`, 'm').exec(text);
  const unitMs = { us: 0.001, ms: 1, s: 1000, m: 60_000 }[match?.[2] ?? ''];
  return unitMs === undefined ? Number.NaN : Number(match?.[1]) * unitMs;
}
