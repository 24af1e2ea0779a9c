// SPDX-License-Identifier: Apache-2.0
// For tests: the HTTP/1 server between a raw client and a raw server, torn down at the end of the test.

import { type TestContext, test } from 'node:test';
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

/** What sockets the test that runs has; tests of a file run one after another. */
let plain = false;

export const hasPlainSockets = (): boolean => plain;

/** The behaviour must not depend on sockets: each test runs with those of Node.js and with our own. */
export function testBoth(name: string, run: (context: TestContext) => Promise<void>): void {
  for (const kind of ['sockets of Node.js', 'plain sockets']) {
    test(`${name} (${kind})`, { timeout: 20_000 }, async (context) => {
      plain = kind === 'plain sockets';
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
  const endpoint = new LoopbackEndpoint(upstream.port, metrics, plain);
  const server = createHttpServer(options.server);
  const target: HttpTarget = options.target?.(endpoint) ?? {
    authority: 'test:80',
    endpoints: [endpoint],
    failfast: false,
    whenAvailable: () => undefined,
  };
  const proxy = await listenLoopback(server, target, options.gate ?? null, plain);
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
