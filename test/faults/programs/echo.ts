// SPDX-License-Identifier: Apache-2.0
// The server of the load: says a request's nonce back together with its own pod's name, over HTTP/1.1 and over
// lines of plain TCP. Nothing else; what it says is judged by load-engine.ts.
//   node echo.ts HTTP_PORT TCP_PORT

import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';

const [httpPort, tcpPort] = process.argv.slice(2).map(Number);

const http = createServer((request, response) => {
  request.resume();
  const body = `${String(request.headers['x-nonce'] ?? '')} ${hostname()}\n`;
  response.setHeader('content-length', Buffer.byteLength(body));
  response.end(body);
});
// The client decides when a kept connection ends; a server that ends idle ones would look like a fault.
http.keepAliveTimeout = 0;
http.listen(httpPort, '::');

createTcpServer((socket) => {
  const lines = createInterface({ input: socket });
  // A client that resets must not end the server: the interface repeats the socket's error as its own.
  for (const emitter of [socket, lines]) emitter.on('error', () => socket.destroy());
  lines.on('line', (line) => {
    if (socket.writable) socket.write(`${line} ${hostname()}\n`);
  });
}).listen(tcpPort, '::');
