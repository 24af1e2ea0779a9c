// SPDX-License-Identifier: Apache-2.0
// The server of the mixed load: says back what it is told, over HTTP/1.1, WebSockets, HTTP/2, gRPC (single messages and
// streams), lines of plain TCP, and lines of a server that speaks first.
//   node mixed-server.ts HTTP_PORT HTTP2_PORT TCP_PORT SERVER_FIRST_PORT

import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2';
import { createServer as createTcpServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { ServerWebSocket } from '../../../samples/shop/websocket.ts';

const [httpPort, http2Port, tcpPort, firstPort] = process.argv.slice(2).map(Number);

const http = createHttpServer((request, response) => {
  request.resume();
  const body = String(request.headers['x-nonce'] ?? '');
  response.setHeader('content-length', Buffer.byteLength(body));
  response.end(body);
});
// The client decides when a kept connection ends; a server that ends idle ones would look like a fault.
http.keepAliveTimeout = 0;
http.on('upgrade', (request, socket, early) => {
  const peer = ServerWebSocket.accept(request, socket, early, {
    onText: (text) => peer?.send(text),
    onClose: () => undefined,
  });
});
http.listen(httpPort, '::');

const http2 = createHttp2Server();
http2.on('stream', (stream: ServerHttp2Stream, headers) => {
  stream.on('error', () => stream.destroy());
  if (headers['content-type'] !== 'application/grpc') {
    stream.respond({ ':status': 200 });
    stream.end(String(headers['x-nonce'] ?? ''));
    return;
  }
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  // Messages with their five bytes in front go back as they are.
  stream.on('data', (chunk: Buffer) => stream.write(chunk));
  stream.on('end', () => stream.end());
});
http2.on('session', (session) => session.on('error', () => session.destroy()));
http2.listen(http2Port, '::');

function serveLines(socket: Socket): void {
  const lines = createInterface({ input: socket });
  for (const emitter of [socket, lines]) emitter.on('error', () => socket.destroy());
  lines.on('line', (line) => {
    if (socket.writable) socket.write(`${line}\n`);
  });
}
createTcpServer(serveLines).listen(tcpPort, '::');
createTcpServer((socket) => {
  socket.write('220 ready\n');
  serveLines(socket);
}).listen(firstPort, '::');
