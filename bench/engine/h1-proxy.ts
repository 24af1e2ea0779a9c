// SPDX-License-Identifier: Apache-2.0
// The HTTP/1 path alone in one process, for bench/engine/h1.ts: every connection goes to 127.0.0.1:<first argument>,
// as one of so many endpoints (second argument, 1 if absent), each with connections and counts of its own.
// No policy, no mesh, no redirection; balancing, pool, codec and metrics calls are the real ones.

import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { createHttpServer } from '../../agent/proxy/exchange/server.ts';
import { fixedTarget, LoopbackEndpoint } from '../../agent/proxy/exchange/loopback.ts';
import type { HttpMetrics } from '../../agent/proxy/exchange/types.ts';
import { FAILURE_NONE } from '../../agent/proxy/failure.ts';
import { onAccepted, proveSharedAccept } from '#lib/net/accept.ts';
import { silentLog } from '#lib/core/log.ts';

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

const shares = await proveSharedAccept(silentLog);
const target = fixedTarget(
  Array.from({ length: endpoints }, () => new LoopbackEndpoint(upstreamPort, new CountedMetrics(), true)),
);
const server = createHttpServer();
const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true });
onAccepted(listener, (source) => {
  source.socket.setNoDelay(true);
  server.serve({
    source,
    first: null,
    target,
    gate: null,
    onClosed: () => undefined,
  });
});
listener.listen(0, '127.0.0.1');
await once(listener, 'listening');
process.stdout.write(`${(listener.address() as AddressInfo).port} ${shares ? 'shared' : 'own'} buffers\n`);
process.on('SIGTERM', () => process.exit(0));
