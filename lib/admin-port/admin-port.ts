// SPDX-License-Identifier: Apache-2.0
// The admin port of a control-plane part: /live, /ready and /metrics for kubelet and Prometheus. It reveals nothing
// else and changes nothing.

import { createServer } from 'node:http';
import { MeshError } from '#lib/core/errors.ts';

export interface AdminPort {
  readonly address: { readonly ip: string; readonly port: number };
  close(): Promise<void>;
}

export interface AdminPortOptions {
  readonly host: string;
  readonly port: number;
  readonly ready: () => boolean;
  readonly metrics: { readonly contentType: string; text(): Promise<string> };
}

const CONNECTIONS_MAX = 100;
const REQUEST_TIMEOUT_MS = 10_000;
/** How often slow clients are looked for. */
const CHECK_INTERVAL_MS = 5_000;

export async function serveAdminPort(options: AdminPortOptions): Promise<AdminPort> {
  const { metrics } = options;
  const timeouts = { requestTimeout: REQUEST_TIMEOUT_MS, connectionsCheckingInterval: CHECK_INTERVAL_MS };
  const server = createServer(timeouts, (request, response) => {
    const answer = (status: number, body: string, type = 'text/plain'): void => {
      response.writeHead(status, { 'content-type': type });
      response.end(body);
    };
    const path = (request.url ?? '').split('?')[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') answer(405, 'method not allowed\n');
    else if (path === '/live') answer(200, 'live\n');
    else if (path === '/ready') {
      const ready = options.ready();
      answer(ready ? 200 : 503, ready ? 'ready\n' : 'not ready\n');
    } else if (path === '/metrics') {
      metrics.text().then(
        (text) => answer(200, text, metrics.contentType),
        (error: unknown) => answer(500, `${String(error)}\n`),
      );
    } else answer(404, 'not found\n');
  });
  server.maxConnections = CONNECTIONS_MAX;
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(MeshError.from(error, 'MESH_SYSCALL', `cannot listen on ${options.host} port ${options.port}`)),
    );
    server.listen({ host: options.host, port: options.port }, resolve);
  });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') throw new MeshError('MESH_SYSCALL', 'no bound address');
  return {
    address: { ip: bound.address, port: bound.port },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
