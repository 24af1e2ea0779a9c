// SPDX-License-Identifier: Apache-2.0
// One kept HTTP connection and one TCP stream, each asked ten times a second; says in FILE, and when there is FILE.stop
// at the end, what became of them, as
// JSON: {"statuses":[[200,12],[403,5]],"httpEnded":"","echoed":17,"tcpEnded":"ECONNRESET"}
//   node kept.ts HOST HTTP_PORT TCP_PORT FILE

import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';

const [host = '', httpPort = '', tcpPort = '', file = ''] = process.argv.slice(2);
const statuses: [number, number][] = [];
const sockets = new Set<unknown>();
let httpEnded = '';
let tcpEnded = '';
let echoed = 0;

const agent = new Agent({ keepAlive: true, maxSockets: 1 });
const ask = (): void => {
  const call = request({ host, port: Number(httpPort), path: '/x', agent }, (response) => {
    const status = response.statusCode ?? 0;
    const last = statuses.at(-1);
    if (last?.[0] === status) last[1]++;
    else statuses.push([status, 1]);
    response.resume();
  });
  call.on('socket', (socket) => sockets.add(socket));
  call.on('error', (error) => {
    httpEnded ||= error.message;
  });
  call.end();
};
const stream = connect({ host, port: Number(tcpPort) });
stream.on('data', () => echoed++);
stream.on('error', (error) => {
  tcpEnded ||= 'code' in error ? String(error.code) : error.message;
});
stream.on('close', () => {
  tcpEnded ||= 'FIN';
});

const beat = setInterval(() => {
  ask();
  if (tcpEnded === '') stream.write('x\n');
}, 100);
const tell = setInterval(() => {
  const connections = sockets.size;
  const seen = JSON.stringify({ statuses, connections, httpEnded, echoed, tcpEnded });
  writeFileSync(`${file}.new`, seen);
  renameSync(`${file}.new`, file);
  if (!existsSync(`${file}.stop`)) return;
  clearInterval(beat);
  clearInterval(tell);
  process.stdout.write(seen, () => process.exit(0));
}, 100);
