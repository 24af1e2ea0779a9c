// SPDX-License-Identifier: Apache-2.0
// What every server of the sample shop has: routes, /healthz, one log line a request, an end in good order. The
// shop knows nothing of the mesh; it would run the same without.

import { Agent, createServer, type IncomingMessage, request, type Server } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

/** A value that travels through the whole shop in path, header and body, so that a capture can be searched for it. */
export const MARKER_HEADER = 'x-shop-marker';
const BODY_BYTES_MAX = 64 * 1024;

export interface Call {
  readonly method: string;
  readonly path: string;
  readonly marker: string;
  readonly body: string;
}

export type Reply =
  | { readonly status: number; readonly body: object }
  /** HTML. */
  | { readonly status: number; readonly page: string };

export type Handler = (call: Call, parameters: readonly string[]) => Promise<Reply> | Reply;

/** `[method, pattern, handler]`; the pattern's groups are the handler's parameters. */
export type Route = readonly [method: string, pattern: RegExp, handler: Handler];

export const say = (fields: object): void => {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), ...fields })}\n`);
};

/** Work, as a shop has it: a time between the two, so that latencies have a shape. */
export const work = (fromMs: number, toMs: number): Promise<void> =>
  pause(fromMs + Math.random() * (toMs - fromMs));

/** True for `percent` of the calls, evenly spread. */
export function failures(percent: number): () => boolean {
  let towardsFailure = 0;
  return () => {
    towardsFailure += percent;
    if (towardsFailure < 100) return false;
    towardsFailure -= 100;
    return true;
  };
}

async function readBody(message: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of message as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) throw new Error('the body is too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

async function route(call: Call, routes: readonly Route[]): Promise<Reply> {
  for (const [method, pattern, handler] of routes) {
    const match = method === call.method ? pattern.exec(call.path) : null;
    if (match !== null) return handler(call, match.slice(1));
  }
  return { status: 404, body: { error: 'there is nothing here' } };
}

/** Serves until SIGTERM, then finishes what is under way. */
export function serve(name: string, routes: readonly Route[]): Server {
  const port = Number(process.env['PORT'] ?? '8080');
  const pod = process.env['POD_NAME'] ?? name;
  const server = createServer((message, response) => {
    const started = performance.now();
    const url = new URL(message.url ?? '/', 'http://shop');
    const header = message.headers[MARKER_HEADER];
    const marker = typeof header === 'string' ? header : '';
    const finish = (reply: Reply): void => {
      const { status } = reply;
      const isPage = 'page' in reply;
      response.writeHead(status, {
        'content-type': isPage ? 'text/html; charset=utf-8' : 'application/json',
        [MARKER_HEADER]: marker,
      });
      response.end(isPage ? reply.page : JSON.stringify({ ...reply.body, pod, marker }));
      if (url.pathname === '/healthz') return;
      const ms = Math.round(performance.now() - started);
      say({ server: name, method: message.method, path: url.pathname, status, ms });
    };
    if (url.pathname === '/healthz') {
      finish({ status: 200, body: { ok: true } });
      return;
    }
    void readBody(message)
      .then((body) => route({ method: message.method ?? '', path: url.pathname, marker, body }, routes))
      .catch((error: unknown) => ({ status: 502, body: { error: String(error) } }))
      .then(finish);
  });
  // Longer than any proxy in front keeps an idle connection.
  server.keepAliveTimeout = 120_000;
  server.listen(port, () => say({ server: name, pod, listening: port }));
  process.once('SIGTERM', () => {
    say({ server: name, stopping: true });
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
  return server;
}

const agent = new Agent({ keepAlive: true, maxSockets: 32 });

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** A request to another server of the shop, with the marker in path, header and body. */
export function ask(
  base: string,
  method: string,
  path: string,
  marker: string,
  body?: object,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = body === undefined ? undefined : JSON.stringify({ ...body, marker });
    const headers = {
      [MARKER_HEADER]: marker,
      ...(sent === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(sent)) }),
    };
    const url = new URL(`${path}?marker=${encodeURIComponent(marker)}`, base);
    const outgoing = request(url, { method, agent, headers, timeout: 10_000 }, (response) => {
      readBody(response).then((text) => resolve({ status: response.statusCode ?? 0, body: text }), reject);
    });
    outgoing.on('timeout', () => outgoing.destroy(new Error(`${base} did not answer in time`)));
    outgoing.on('error', reject);
    outgoing.end(sent);
  });
}

/** The body of an answer that must be a 200. */
export async function askJson(base: string, path: string, marker: string): Promise<unknown> {
  const answer = await ask(base, 'GET', path, marker);
  if (answer.status !== 200) throw new Error(`${base}${path} answered ${answer.status}`);
  return JSON.parse(answer.body);
}
