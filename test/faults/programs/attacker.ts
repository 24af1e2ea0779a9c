// SPDX-License-Identifier: Apache-2.0
// A pod that takes all it can get, and what it takes it from: `serve HTTP HTTP2 TCP` or `attack KIND HOST HTTP HTTP2 TCP FILE`.
// Goes on until it is killed; FILE has how often it did what it does.

import { createServer as createHttpServer } from 'node:http';
import { connect as connectHttp2, createServer as createHttp2Server } from 'node:http2';
import { connect, createServer, type Socket } from 'node:net';
import { renameSync, writeFileSync } from 'node:fs';

const BIG_BYTES = 1_073_741_824;
const PIECE = Buffer.alloc(262_144, 'x');
const TELL_MS = 100;

const [mode = '', ...rest] = process.argv.slice(2);

function serve(http: number, http2: number, tcp: number): void {
  createHttpServer({ maxHeaderSize: 1_048_576 }, (request, response) => {
    request.resume();
    if (request.url !== '/big') {
      request.on('end', () => response.end('ok'));
      return;
    }
    let left = BIG_BYTES;
    const more = (): void => {
      while (left > 0) {
        left -= PIECE.length;
        if (!response.write(PIECE)) {
          response.once('drain', more);
          return;
        }
      }
      response.end();
    };
    more();
  }).listen(http, '::');
  createHttp2Server((request, response) => {
    request.resume();
    request.on('error', () => undefined);
    setTimeout(() => response.end('ok'), 50);
  }).listen(http2, '::');
  createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.resume();
  }).listen(tcp, '::');
}

let done = 0;

/** As many as `count` connections at once, each in the hands of `use`; one that ends is followed by another. */
function keep(count: number, host: string, port: number, use: (socket: Socket) => void): void {
  const open = (): void => {
    const socket = connect(port, host);
    socket.on('error', () => undefined);
    socket.on('close', () => setTimeout(open, 10));
    socket.on('connect', () => {
      done++;
      use(socket);
    });
  };
  for (let n = 0; n < count; n++) open();
}

const send = (socket: Socket): void => {
  const more = (): void => {
    while (!socket.destroyed) {
      done++;
      if (!socket.write(PIECE)) {
        socket.once('drain', more);
        return;
      }
    }
  };
  more();
};

const attacks: Readonly<Record<string, (host: string, http: number, http2: number, tcp: number) => void>> = {
  /** Bytes without end over many connections. */
  bulk: (host, _http, _http2, tcp) => keep(32, host, tcp, send),
  'slow-readers': (host, http) =>
    keep(100, host, http, (socket) => {
      socket.pause();
      socket.write('GET /big HTTP/1.1\r\nHost: target\r\n\r\n');
    }),
  'huge-bodies': (host, http) =>
    keep(32, host, http, (socket) => {
      socket.resume();
      socket.write(`POST / HTTP/1.1\r\nHost: target\r\nContent-Length: ${BIG_BYTES}\r\n\r\n`);
      send(socket);
    }),
  'huge-heads': (host, http) =>
    keep(16, host, http, (socket) => {
      socket.resume();
      socket.write('GET / HTTP/1.1\r\nHost: target\r\n');
      for (let n = 0; n < 64; n++) socket.write(`X-${n}: ${'h'.repeat(8_000)}\r\n`);
    }),
  /** More connections than there may be. */
  connections: (host, http) => keep(1_500, host, http, (socket) => socket.resume()),
  /** Connections that end as soon as they are there: a TLS handshake between the nodes for each. */
  handshakes: (host, _http, _http2, tcp) =>
    keep(200, host, tcp, (socket) => {
      socket.resume();
      setTimeout(() => socket.destroy(), 50);
    }),
  streams: (host, _http, http2) => {
    const open = (): void => {
      const session = connectHttp2(`http://${host}:${http2}`);
      session.on('error', () => undefined);
      session.on('close', () => setTimeout(open, 10));
      const ask = (): void => {
        if (session.destroyed) return;
        for (let n = 0; n < 200; n++) {
          const stream = session.request({ ':path': '/' });
          stream.on('error', () => undefined);
          stream.resume();
          done++;
          if (n % 2 === 0) stream.close(8);
        }
        setTimeout(ask, 20);
      };
      session.on('connect', ask);
    };
    for (let n = 0; n < 4; n++) open();
  },
};

if (mode === 'serve') {
  const [http = 0, http2 = 0, tcp = 0] = rest.map(Number);
  serve(http, http2, tcp);
} else {
  const [kind = '', host = '', http, http2, tcp, file = ''] = rest;
  attacks[kind]?.(host, Number(http), Number(http2), Number(tcp));
  setInterval(() => {
    writeFileSync(`${file}.new`, String(done));
    renameSync(`${file}.new`, file);
  }, TELL_MS);
}
