// SPDX-License-Identifier: Apache-2.0
// The client of bench/memory.ts: opens connections, makes one request on each so that both sides know what is spoken,
// and keeps them open until it is killed.
//   node bench/hold-connections.ts ADDRESS PORT COUNT

import { connect, type Socket } from 'node:net';

const AT_ONCE = 50;
const [host = '', port = '', count = ''] = process.argv.slice(2);
const held: Socket[] = [];

function hold(): Promise<void> {
  return new Promise((done, fail) => {
    const socket = connect({ host, port: Number(port) });
    socket.setEncoding('latin1');
    let text = '';
    socket.on('data', (chunk: string) => {
      text += chunk;
      if (text.endsWith('hello')) done();
    });
    socket.on('error', fail);
    socket.on('close', () => {
      console.error(`connection ${held.indexOf(socket)} was closed after ${text.length} bytes`);
      process.exit(1);
    });
    socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    held.push(socket);
  });
}

const lanes = Array.from({ length: AT_ONCE }, async () => {
  while (held.length < Number(count)) await hold();
});
await Promise.all(lanes);
