// SPDX-License-Identifier: Apache-2.0
// An HTTP server that says who its client is; `Upgrade` makes a connection that echoes.

import { createServer } from 'node:http';

const port = Number(process.argv[2]);
createServer((request, response) => {
  response.end(`client=${String(request.headers['l5d-client-id'] ?? '')} path=${request.url}\n`);
})
  .on('upgrade', (_request, socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n');
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  })
  .listen(port, '::');
