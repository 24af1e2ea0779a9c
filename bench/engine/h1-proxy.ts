// SPDX-License-Identifier: Apache-2.0
// The HTTP/1 path alone in one process, for bench/engine/h1.ts: every connection goes to 127.0.0.1:<first argument>,
// as one of so many endpoints (second argument, 1 if absent), each with connections and counts of its own.
// No policy, no mesh, no redirection; balancing, pool, codec and metrics calls are the real ones.

import { createHttpServer } from '../../agent/proxy/exchange/server.ts';
import { fixedTarget, LoopbackEndpoint, listenLoopback } from '../../agent/proxy/exchange/loopback.ts';
import type { HttpMetrics } from '../../agent/proxy/exchange/types.ts';
import { FAILURE_NONE } from '../../agent/proxy/failure.ts';

const upstreamPort = Number(process.argv[2]);
const endpoints = Number(process.argv[3] ?? 1);

/** Three additions, about what the real counters cost. */
class CountedMetrics implements HttpMetrics {
  readonly #cells = new Float64Array(8);

  #count(cell: number, value: number): void {
    this.#cells[cell] = (this.#cells[cell] as number) + value;
  }

  requestStarted(): void {
    this.#count(0, 1);
  }

  firstBody(_status: number, latencyMs: number): void {
    this.#count(1, latencyMs);
  }

  responseEnded(_status: number, failure: number): void {
    this.#count(2 + (failure === FAILURE_NONE ? 0 : 1), 1);
  }

  responseReset(): void {
    this.#count(3, 1);
  }

  requestReturned(): void {}
}

const target = fixedTarget(
  Array.from({ length: endpoints }, () => new LoopbackEndpoint(upstreamPort, new CountedMetrics(), true)),
);
const { port } = await listenLoopback(createHttpServer(), target, null, true);
process.stdout.write(`${port}\n`);
// Our own sockets keep no process alive.
setInterval(() => undefined, 60_000);
process.on('SIGTERM', () => process.exit(0));
