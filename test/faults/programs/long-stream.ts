// SPDX-License-Identifier: Apache-2.0
// One long TCP connection to the echo server: asks every 100 ms until it is cut, or a limit is over, and then says how
// it fared. Makes the file BEGUN with the first answer.
//   node long-stream.ts HOST PORT LIMIT_MS BEGUN  ->  {"endedMs": …, "lastMs": …, "asked": …, "answered": …, "how": "ECONNRESET"}

import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';

const [host = '', port, limitMs, begunFile = ''] = process.argv.slice(2);
let asked = 0;
let answered = 0;
let lastMs = Date.now();
let how = 'FIN';
const socket = connect({ host, port: Number(port) });
const beat = setInterval(() => socket.write(`${asked++}\n`), 100);
const limit = setTimeout(() => {
  how = 'never cut';
  socket.destroy();
}, Number(limitMs));
socket.setEncoding('latin1');
socket.on('data', (text: string) => {
  if (answered === 0) writeFileSync(begunFile, '');
  answered += text.split('\n').length - 1;
  lastMs = Date.now();
});
socket.on('error', (error) => {
  how = 'code' in error ? String(error.code) : error.message;
});
socket.on('close', () => {
  clearInterval(beat);
  clearTimeout(limit);
  process.stdout.write(`${JSON.stringify({ endedMs: Date.now(), lastMs, asked, answered, how })}\n`);
});
