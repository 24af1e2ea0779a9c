// SPDX-License-Identifier: Apache-2.0
// Says back what it hears: over HTTP the path, the x-marker header and the body; over plain TCP every byte.

import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';

const [httpPort, tcpPort] = process.argv.slice(2).map(Number);

createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on('data', (part: Buffer) => parts.push(part));
  request.on('end', () => {
    const marker = String(request.headers['x-marker'] ?? '');
    response.setHeader('x-marker', marker);
    response.setHeader('x-client-id', String(request.headers['l5d-client-id'] ?? ''));
    response.end(
      `${request.url} ${marker} ${Buffer.concat(parts).toString()} peer=${request.socket.remoteAddress}\n`,
    );
  });
}).listen(httpPort, '::');

createTcpServer((socket) => {
  socket.pipe(socket);
  socket.on('error', () => socket.destroy());
}).listen(tcpPort, '::');
