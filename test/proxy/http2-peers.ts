// SPDX-License-Identifier: Apache-2.0
// HTTP/2 by prior knowledge as applications speak it: node:http2 at both ends of the scene.

import { once } from 'node:events';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  createServer,
  type Http2Server,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
  type OutgoingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect as dialTcp } from 'node:net';
import { listenIn } from './harness.ts';
import { CLIENT, services, type ServiceName } from './scene.ts';

export interface Http2Application {
  readonly server: Http2Server;
  readonly sessions: ServerHttp2Session[];
  close(): void;
}

/** An application that speaks nothing but HTTP/2. */
export async function serveHttp2(
  netnsFd: number,
  address: string,
  port: number,
  onStream: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
): Promise<Http2Application> {
  const sessions: ServerHttp2Session[] = [];
  const server = createServer();
  server.on('session', (session) => {
    sessions.push(session);
    session.on('error', () => undefined);
  });
  server.on('stream', (stream, headers) => {
    stream.on('error', () => undefined);
    onStream(stream as ServerHttp2Stream, headers);
  });
  server.listen({ fd: listenIn(netnsFd, address, port) });
  await once(server, 'listening');
  return {
    server,
    sessions,
    close: () => {
      server.close();
      for (const session of sessions) session.destroy();
    },
  };
}

/** A connection of the client pod's application. */
export function http2To(name: ServiceName): ClientHttp2Session {
  return http2At(CLIENT, services[name].listener);
}

export function http2At(host: string, port: number): ClientHttp2Session {
  const session = connect('http://shop', { createConnection: () => dialTcp({ host, port }) });
  session.on('error', () => undefined);
  return session;
}

export interface Http2Answer {
  readonly headers: IncomingHttpHeaders & IncomingHttpStatusHeader;
  readonly text: string;
  readonly trailers: IncomingHttpHeaders;
  /** With what the stream was reset; 0 if it was not. */
  readonly reset: number;
}

/** The whole answer, however it ends. */
export async function answerOf(stream: ClientHttp2Stream): Promise<Http2Answer> {
  let headers: IncomingHttpHeaders & IncomingHttpStatusHeader = {};
  let trailers: IncomingHttpHeaders = {};
  let text = '';
  stream.on('error', () => undefined);
  stream.on('response', (values) => {
    headers = values;
  });
  stream.on('trailers', (values) => {
    trailers = values;
  });
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
  });
  await new Promise<void>((resolve) => {
    if (stream.destroyed) resolve();
    else stream.once('close', resolve);
  });
  return { headers, text, trailers, reset: stream.rstCode };
}

export async function fetch2(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body?: string | Buffer,
): Promise<Http2Answer> {
  const stream = session.request(headers, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  return answerOf(stream);
}
