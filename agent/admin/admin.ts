// SPDX-License-Identifier: Apache-2.0
// The agent's two windows: on the node's address what a scraper and the kubelet ask (/metrics, /live, /ready), and on
// a Unix socket (0600, in the agent's 0700 directory) what shows or changes more. Reads nothing itself.

import { chmod, rename, rm, stat } from 'node:fs/promises';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { ListenOptions, Socket } from 'node:net';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { TapServer } from './tap.ts';
import { encodeExposition, type Exposition, expositionFor } from '#lib/metrics/exposition.ts';

export interface AdminOptions {
  /** Where the node's scraper and probes come. Port 0 takes a free one. */
  readonly host: string;
  readonly port: number;
  readonly socketPath: string;
  /** The text exposition of everything on this node. */
  readonly metrics: (exposition: Exposition) => Promise<string>;
  /** Why the agent is not ready, or undefined when it is. */
  readonly notReady: () => string | undefined;
  /** State for `GET /state` on the Unix socket; plain data, without keys. */
  readonly state: () => unknown;
  /** Runs the self-check for `POST /self-check` on the Unix socket; the answer is its outcome. */
  readonly selfCheck?: () => Promise<unknown>;
  /** `GET /tap` on the Unix socket. */
  readonly tap?: Pick<TapServer, 'serve'>;
  /** The uid on the other side of the Unix socket (lib/net/peer-uid.ts). */
  readonly peerUid: (socket: Socket) => number | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Admin {
  /** The port that was bound; undefined while another agent of this node has it. */
  readonly port: number | undefined;
  /** Resolves once the port is bound: an earlier agent has given up what it had to. */
  readonly bound: Promise<void>;
  /** Gives the port and the Unix socket's path to another agent of this node. */
  release(): Promise<void>;
  /** Takes both back. */
  take(): Promise<void>;
  close(): Promise<void>;
}

/** An agent that hands the port over does so within its next beat. */
const BIND_AGAIN_MS = 100;
const BIND_WARN_MS = 10_000;

/** Scrapes that run at the same time; more are told to come again. */
const SCRAPES_MAX = 8;
const CONNECTIONS_MAX = 256;

export async function createAdmin(options: AdminOptions): Promise<Admin> {
  const { host, port, socketPath, clock, log } = options;
  let node: Server | undefined;
  let again: Timer | undefined;
  let nowBound: () => void = () => undefined;
  const bound = new Promise<void>((resolve) => {
    nowBound = resolve;
  });
  const local = limited(localRequests(options));
  local.on('connection', (socket: Socket) => {
    const uid = options.peerUid(socket);
    if (uid === 0) return;
    options.log.warn({ uid }, 'an admin caller that is not root was refused');
    socket.destroy();
  });
  // Bound beside its place and moved there: at its own end libuv unlinks the path that it bound, not a successor's.
  const beside = `${socketPath}.${process.pid}`;
  let inode = 0;
  const bindLocal = async (): Promise<void> => {
    await rm(beside, { force: true });
    await listen(local, { path: beside }, socketPath);
    await chmod(beside, 0o600);
    inode = (await stat(beside)).ino;
    await rename(beside, socketPath);
  };
  const releaseLocal = async (): Promise<void> => {
    const there = await stat(socketPath).catch(() => undefined);
    if (there?.ino === inode) await rm(socketPath, { force: true });
    await closeServer(local);
  };

  const bindNode = async (sinceMs: number, warned: boolean): Promise<void> => {
    const server = limited(nodeRequests(options));
    try {
      await listen(server, { host, port }, `${host} port ${port}`);
      node = server;
      nowBound();
    } catch (error) {
      if (!(error instanceof MeshError) || errnoName(error.cause) !== 'EADDRINUSE') throw error;
      const warn = !warned && clock.nowMs() - sinceMs > BIND_WARN_MS;
      if (warn) log.error({ error: errorMessage(error) }, 'metrics and probes of the node have no port yet');
      again = clock.after(BIND_AGAIN_MS, () => {
        bindNode(sinceMs, warned || warn).catch((failure: unknown) => {
          log.error({ error: errorMessage(failure) }, 'metrics and probes of the node have no port');
        });
      });
    }
  };
  const release = async (): Promise<void> => {
    again?.cancel();
    const server = node;
    node = undefined;
    await Promise.all([releaseLocal(), server === undefined ? undefined : closeServer(server)]);
  };

  await bindLocal();
  await bindNode(clock.nowMs(), false);
  return {
    get port() {
      const address = node?.address();
      return address === null || typeof address === 'string' ? undefined : address?.port;
    },
    bound,
    release,
    async take() {
      await bindLocal();
      await bindNode(clock.nowMs(), false);
    },
    close: release,
  };
}

function limited(onRequest: RequestListener): Server {
  const server = createServer(
    {
      maxHeaderSize: 8192,
      headersTimeout: 10_000,
      requestTimeout: 10_000,
      keepAliveTimeout: 30_000,
      connectionsCheckingInterval: 5_000,
    },
    onRequest,
  );
  server.maxConnections = CONNECTIONS_MAX;
  return server;
}

function nodeRequests(options: AdminOptions): RequestListener {
  let scrapes = 0;
  const metrics = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (scrapes >= SCRAPES_MAX) {
      answer(response, 503, 'too many scrapes at once\n');
      return;
    }
    scrapes++;
    try {
      const exposition = expositionFor(request.headers);
      const text = await options.metrics(exposition);
      const { body, headers } = await encodeExposition(text, exposition, request.headers);
      response.writeHead(200, { ...headers, 'content-length': body.length });
      response.end(body);
    } catch (error) {
      options.log.error({ error: errorMessage(error) }, 'metrics cannot be rendered');
      answer(response, 500, '');
    } finally {
      scrapes--;
    }
  };
  const ready = (response: ServerResponse): void => {
    const reason = options.notReady();
    if (reason === undefined) answer(response, 200, 'ready\n');
    else answer(response, 503, `not ready: ${reason}\n`);
  };
  return (request, response) => {
    request.resume();
    switch (pathOf(request.url)) {
      case '/live':
        answer(response, 200, 'live\n');
        break;
      case '/ready':
        ready(response);
        break;
      case '/metrics':
        void metrics(request, response);
        break;
      default:
        answer(response, 404, '');
    }
  };
}

function localRequests(options: AdminOptions): RequestListener {
  const selfCheck = async (response: ServerResponse, run: () => Promise<unknown>): Promise<void> => {
    try {
      answer(response, 200, `${JSON.stringify(await run(), plainValue, 2)}\n`, 'application/json');
    } catch (error) {
      options.log.error({ error: errorMessage(error) }, 'the self-check failed');
      answer(response, 500, '');
    }
  };
  return (request, response) => {
    request.resume();
    if (pathOf(request.url) === '/self-check' && options.selfCheck !== undefined) {
      if (request.method === 'POST') void selfCheck(response, options.selfCheck);
      else answer(response, 405, '');
      return;
    }
    if (pathOf(request.url) === '/tap' && options.tap !== undefined) {
      options.tap.serve(request, response);
      return;
    }
    if (pathOf(request.url) !== '/state') {
      answer(response, 404, '');
      return;
    }
    try {
      answer(response, 200, `${JSON.stringify(options.state(), plainValue, 2)}\n`, 'application/json');
    } catch (error) {
      options.log.error({ error: errorMessage(error) }, 'the state cannot be shown');
      answer(response, 500, '');
    }
  };
}

/** What JSON has no form for. */
function plainValue(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Map) return Object.fromEntries(value as Map<string, unknown>);
  return value instanceof Set ? [...(value as Set<unknown>)] : value;
}

function pathOf(url: string | undefined): string {
  return (url ?? '').split('?', 1)[0] ?? '';
}

function answer(
  response: ServerResponse,
  status: number,
  text: string,
  type = 'text/plain; charset=utf-8',
): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

async function listen(server: Server, where: ListenOptions, name: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new MeshError('MESH_SYSCALL', `the admin server cannot listen on ${name}: ${errorMessage(error)}`, {
          cause: error,
          ...(errnoName(error) === 'EADDRINUSE' ? { remedy: 'stop what listens there' } : {}),
        }),
      ),
    );
    server.listen(where, resolve);
  });
}

async function closeServer(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    // Also of one that does not listen.
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
