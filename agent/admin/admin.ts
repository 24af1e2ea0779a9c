// SPDX-License-Identifier: Apache-2.0
// Two doors of the agent. On the node's address: /metrics, /live and /ready, nothing that reveals or changes more.
// On a Unix socket for root: a dump of what the agent knows. Runs on the control thread.

import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';

const HEADERS_TIMEOUT_MS = 5_000;
const CONNECTIONS_MAX = 64;
const compress = promisify(gzip);

export interface AdminOptions {
  readonly host: string;
  readonly port: number;
  readonly socketPath: string;
  /** The text exposition of everything. */
  readonly metrics: () => Promise<string>;
  /** Undefined when ready, else what is missing. */
  readonly notReady: () => string | undefined;
  /** For the Unix socket's GET /state. */
  readonly state: () => unknown;
  readonly log: Log;
}

export interface Admin {
  close(): Promise<void>;
}

/** Throws MESH_CONFIG_INVALID when an address cannot be listened on. */
export async function createAdmin(options: AdminOptions): Promise<Admin> {
  const { host, port, socketPath, log } = options;
  const open = serve(log, async (request, response, path) => {
    if (path === '/live') return answer(response, 200, 'live\n');
    if (path === '/ready') {
      const missing = options.notReady();
      return missing === undefined ? answer(response, 200, 'ready\n') : answer(response, 503, `${missing}\n`);
    }
    if (path !== '/metrics') return answer(response, 404, 'not found; here are /metrics, /live and /ready\n');
    response.setHeader('content-type', 'text/plain; version=0.0.4; charset=utf-8');
    const text = await options.metrics();
    if (!String(request.headers['accept-encoding']).includes('gzip')) return answer(response, 200, text);
    response.setHeader('content-encoding', 'gzip');
    return answer(response, 200, await compress(text));
  });
  const closed = serve(log, (_request, response, path) => {
    if (path !== '/state') return answer(response, 404, 'not found; here is /state\n');
    response.setHeader('content-type', 'application/json');
    return answer(response, 200, `${JSON.stringify(options.state(), undefined, 2)}\n`);
  });
  mkdirSync(dirname(socketPath), { recursive: true, mode: 0o700 });
  await listen(open, { host, port }, `${host}:${port}`);
  try {
    // Only the owner of the node's address may replace the socket of one that died.
    rmSync(socketPath, { force: true });
    await listen(closed, { path: socketPath }, socketPath);
    chmodSync(socketPath, 0o600);
  } catch (error) {
    open.close();
    throw error;
  }
  return {
    async close() {
      rmSync(socketPath, { force: true });
      await Promise.all([open, closed].map(end));
    },
  };
}

type Answering = (request: IncomingMessage, response: ServerResponse, path: string) => Promise<void> | void;

function serve(log: Log, handle: Answering): Server {
  const server = createServer(
    { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: HEADERS_TIMEOUT_MS },
    (request, response) => {
      request.resume();
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        answer(response, 405, 'only GET\n');
        return;
      }
      const path = (request.url ?? '').split('?', 1)[0] ?? '';
      Promise.resolve()
        .then(() => handle(request, response, path))
        .catch((error: unknown) => {
          log.error({ path, error: errorMessage(error) }, 'an admin request failed');
          if (!response.headersSent) answer(response, 500, 'failed; see the log of the agent\n');
          else response.destroy();
        });
    },
  );
  server.maxConnections = CONNECTIONS_MAX;
  return server;
}

function answer(response: ServerResponse, status: number, body: string | Buffer): void {
  if (!response.hasHeader('content-type')) response.setHeader('content-type', 'text/plain; charset=utf-8');
  response.writeHead(status, { 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

function listen(
  server: Server,
  at: { host: string; port: number } | { path: string },
  name: string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new MeshError('MESH_CONFIG_INVALID', `cannot listen on ${name}: ${errorMessage(error)}`, {
          cause: error,
          remedy:
            'another process may hold the address (NODEMESH_NODE_IPS, NODEMESH_METRICS_PORT, NODEMESH_RUN_DIR)',
        }),
      ),
    );
    server.listen(at, resolve);
  });
}

function end(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
