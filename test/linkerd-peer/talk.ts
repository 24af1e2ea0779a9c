// SPDX-License-Identifier: Apache-2.0
// What clients and servers of the matrix say to each other, over whatever socket they are given: HTTP/1.1, HTTP/2, gRPC,
// WebSocket, plain bytes, TLS. Servers of HTTP answer with what they have seen.

import { once } from 'node:events';
import {
  createServer as createHttp1,
  type Server as Http1Server,
  type IncomingMessage,
  request as requestHttp1,
} from 'node:http';
import {
  connect as connectHttp2,
  createServer as createHttp2,
  type Http2Server,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import type { Duplex, Readable } from 'node:stream';
import { connect as connectTls, TLSSocket } from 'node:tls';

/** By protocol: what the application listens on. */
export const ports = { http1: 8080, http2: 8081, grpc: 8081, websocket: 8080, tcp: 6379, tls: 8443 } as const;
export type Protocol = keyof typeof ports;
export const protocols = Object.keys(ports) as readonly Protocol[];

export interface Seen {
  /** As it was on the wire. */
  readonly version: string;
  readonly method: string;
  readonly path: string;
  readonly authority: string;
  readonly clientId: string;
  readonly origProto: string;
  readonly body: string;
}

type Fields = Readonly<Record<string, string>>;
/** `Hello` in a frame of a client, and of a server. */
const HELLO_MASKED = Buffer.from('818537fa213d7f9f4d5158', 'hex');
const HELLO = Buffer.from('810548656c6c6f', 'hex');

// ---- servers

type See = (seen: Seen) => unknown;

export function http1Server(see: See): Http1Server {
  const server = createHttp1((request, response) => {
    void collect(request).then((body) => {
      const { headers, method = '', url = '', httpVersion } = request;
      const seen: Seen = {
        version: httpVersion,
        method,
        path: url,
        authority: headers.host ?? '',
        clientId: String(headers['l5d-client-id'] ?? ''),
        origProto: String(headers['l5d-orig-proto'] ?? ''),
        body: body.toString(),
      };
      response.end(JSON.stringify(see(seen)));
    });
  });
  server.on('upgrade', (request, socket: Duplex) => {
    socket.on('error', () => socket.destroy());
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
        `x-client-id: ${String(request.headers['l5d-client-id'] ?? '')}\r\n\r\n`,
    );
    socket.once('data', (frame: Buffer) => socket.end(frame.equals(HELLO_MASKED) ? HELLO : 'no frame'));
  });
  server.on('connect', (_request, socket: Duplex) => {
    socket.write('HTTP/1.1 200 OK\r\n\r\n');
    echo(socket);
  });
  return server;
}

/** `answered`: fields that are added to the answer of a request. */
export function http2Server(see: See, answered: (origProto: string) => Fields = () => ({})): Http2Server {
  const server = createHttp2();
  server.on('sessionError', () => undefined);
  server.on('stream', (accepted, headers) => {
    const stream = accepted as ServerHttp2Stream;
    stream.on('error', () => undefined);
    void collect(stream).then((body) => {
      const origProto = String(headers['l5d-orig-proto'] ?? '');
      const seen: Seen = {
        version: '2.0',
        method: headers[':method'] ?? '',
        path: headers[':path'] ?? '',
        authority: headers[':authority'] ?? '',
        clientId: String(headers['l5d-client-id'] ?? ''),
        origProto,
        body: body.toString(),
      };
      const answer = Buffer.from(JSON.stringify(see(seen)));
      if (headers['content-type'] !== 'application/grpc') {
        stream.respond({ ':status': 200, ...answered(origProto) });
        stream.end(answer);
        return;
      }
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.end(framed(answer));
    });
  });
  return server;
}

/** Says back what it hears, until the other side has ended. */
export function echo(socket: Duplex): void {
  socket.on('error', () => socket.destroy());
  socket.pipe(socket);
}

/** The same behind TLS that is the application's own. */
export const tlsEcho = (socket: Socket, key: string, cert: string): void =>
  echo(new TLSSocket(socket, { isServer: true, key, cert }));

// ---- clients

export type Connect = (protocol: Protocol) => Promise<Socket>;

export interface RequestOptions {
  readonly authority: string;
  /** Sent with every request. */
  readonly fields?: Fields;
}

export interface ClientOptions extends RequestOptions {
  readonly connect: Connect;
  /** The version that HTTP/1.1 travels as. */
  readonly http1?: 'h2' | 'h1';
}

/** What a client of one protocol hears, as text. */
export async function talk(protocol: Protocol, options: ClientOptions): Promise<string> {
  const socket = await options.connect(protocol);
  try {
    switch (protocol) {
      case 'http1':
        return await (options.http1 === 'h2'
          ? overHttp2(socket, options, { 'l5d-orig-proto': 'HTTP/1.1' })
          : http1(socket, options));
      case 'http2':
        return await overHttp2(socket, options, {});
      case 'grpc':
        return await overHttp2(socket, options, { 'content-type': 'application/grpc', te: 'trailers' });
      case 'websocket':
        return await webSocket(socket, options);
      case 'tcp':
        return await bytes(socket);
      case 'tls': {
        const inner = connectTls({ socket, rejectUnauthorized: false });
        await once(inner, 'secureConnect');
        return await bytes(inner);
      }
    }
  } finally {
    socket.destroy();
  }
}

export async function http1(socket: Socket, { authority, fields = {} }: RequestOptions): Promise<string> {
  const request = requestHttp1({
    createConnection: () => socket,
    method: 'POST',
    path: '/path?x=1',
    headers: { host: authority, ...fields },
  });
  request.end('a body');
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return `${response.statusCode} ${(await collect(response)).toString()}`;
}

/** `more`: what makes it gRPC, or HTTP/1.1 on its way. */
export async function overHttp2(
  socket: Socket,
  { authority, fields = {} }: RequestOptions,
  more: Fields,
): Promise<string> {
  const session = connectHttp2(`http://${authority}`, { createConnection: () => socket });
  // Its streams tell what happened.
  session.on('error', () => undefined);
  const isGrpc = more['content-type'] !== undefined;
  const stream = session.request({
    ':method': 'POST',
    ':path': '/path?x=1',
    ':authority': authority,
    // The field of a request in HTTP/1.1 stays where it is.
    ...(more['l5d-orig-proto'] === undefined ? {} : { host: authority }),
    ...fields,
    ...more,
  });
  let trailers = '';
  stream.on('trailers', (headers) => {
    trailers = `grpc-status ${String(headers['grpc-status'])} `;
  });
  stream.end(isGrpc ? framed(Buffer.from('a body')) : 'a body');
  const unanswered = once(stream, 'close').then(() => Promise.reject(new Error('closed without an answer')));
  const [headers] = (await Promise.race([once(stream, 'response'), unanswered])) as [
    IncomingHttpHeaders & IncomingHttpStatusHeader,
  ];
  const body = await collect(stream);
  session.destroy();
  const mark = headers['l5d-orig-proto'] === undefined ? '' : `as ${String(headers['l5d-orig-proto'])} `;
  return `${headers[':status']} ${trailers}${mark}${(isGrpc ? body.subarray(5) : body).toString()}`;
}

/** A tunnel, and bytes through it. */
export async function tunnel(socket: Socket, authority: string): Promise<string> {
  const request = requestHttp1({ createConnection: () => socket, method: 'CONNECT', path: authority });
  request.end();
  const [response, inner] = (await once(request, 'connect')) as [IncomingMessage, Socket];
  return `${response.statusCode} ${await bytes(inner)}`;
}

async function webSocket(socket: Socket, { authority, fields = {} }: RequestOptions): Promise<string> {
  const more = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(
    `GET /socket HTTP/1.1\r\nHost: ${authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      `Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n${more.join('')}\r\n`,
  );
  let head = Buffer.alloc(0);
  while (!head.includes('\r\n\r\n')) {
    const [part] = (await once(socket, 'data')) as [Buffer];
    head = Buffer.concat([head, part]);
  }
  socket.write(HELLO_MASKED);
  const frame = await collect(socket);
  const client = /^x-client-id: (.*)$/im.exec(head.toString())?.[1] ?? '';
  return `${head.toString().split(' ')[1]} ${client} ${frame.equals(HELLO) ? 'Hello' : frame.toString('hex')}`;
}

async function bytes(socket: Duplex): Promise<string> {
  socket.end('some bytes');
  return (await collect(socket)).toString();
}

async function collect(stream: Readable): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

/** As gRPC carries a message. */
function framed(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}
