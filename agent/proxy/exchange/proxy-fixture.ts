// SPDX-License-Identifier: Apache-2.0
// For tests: the HTTP/1 server between a raw client and a raw server, torn down at the end of the test.

import { type TestContext, test } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import { proveSharedAccept } from '#lib/net/accept.ts';
import { LoopbackEndpoint, type LoopbackProxy, listenLoopback, RecordedMetrics } from './loopback.ts';
import { type RawPeer, RawServer, rawClient } from './raw-peers.ts';
import { createHttpServer, type HttpServerOptions } from './server.ts';
import type { HttpEndpoint, HttpServer, HttpTarget, RequestGate } from './types.ts';

export interface ProxyFixture {
  readonly upstream: RawServer;
  readonly metrics: RecordedMetrics;
  readonly endpoint: LoopbackEndpoint;
  readonly server: HttpServer;
  readonly proxy: LoopbackProxy;
  readonly client: () => Promise<RawPeer>;
  /** Sends one request on a new client connection; returns the client, and the server's side after its head. */
  readonly exchange: (request: string) => Promise<{ client: RawPeer; server: RawPeer; head: string }>;
}

/** How sockets are read in the test that runs; tests of a file run one after another. */
let shared = false;

export const sharesBuffers = (): boolean => shared;

/** The behaviour must not depend on how sockets are read: each test runs with 'data' events and with shared buffers. */
export function testBoth(name: string, run: (context: TestContext) => Promise<void>): void {
  for (const kind of ['data events', 'shared buffer']) {
    test(`${name} (${kind})`, { timeout: 20_000 }, async (context) => {
      shared = kind === 'shared buffer';
      if (shared && !(await proveSharedAccept(silentLog)))
        throw new Error('accepted sockets cannot share a buffer');
      await run(context);
    });
  }
}

export interface FixtureOptions {
  readonly gate?: RequestGate;
  readonly server?: HttpServerOptions;
  readonly target?: (endpoint: HttpEndpoint) => HttpTarget;
}

export async function proxyFixture(
  context: TestContext,
  options: FixtureOptions = {},
): Promise<ProxyFixture> {
  const upstream = await RawServer.listen();
  const metrics = new RecordedMetrics();
  const endpoint = new LoopbackEndpoint(upstream.port, metrics, shared);
  const server = createHttpServer(options.server);
  const target: HttpTarget = options.target?.(endpoint) ?? {
    authority: 'test:80',
    endpoints: [endpoint],
    failfast: false,
    whenAvailable: () => undefined,
  };
  const proxy = await listenLoopback(server, target, options.gate ?? null, shared);
  context.after(async () => {
    await proxy.close();
    await upstream.close();
  });
  const clients: RawPeer[] = [];
  context.after(() => Promise.all(clients.map((client) => client.close())));
  const client = async (): Promise<RawPeer> => {
    const peer = await rawClient(proxy.port);
    clients.push(peer);
    return peer;
  };
  return {
    upstream,
    metrics,
    endpoint,
    server,
    proxy,
    client,
    exchange: async (request) => {
      const peer = await client();
      peer.write(request);
      const end = await upstream.accept();
      return { client: peer, server: end, head: await end.head() };
    },
  };
}
