// SPDX-License-Identifier: Apache-2.0
// Serves HTTP/2 without TLS, or holds connections to such a server: `serve PORT`, `hold HOST PORT COUNT FILE`. Every
// connection asks once in a while; FILE has the number of answers of each, and of connections that ended.

import { renameSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:http2';

const [mode = '', ...rest] = process.argv.slice(2);
const PAUSE_MS = 50;

if (mode === 'serve') {
  createServer((request, response) => {
    request.resume();
    request.on('end', () => response.end('ok'));
  }).listen(Number(rest[0]), '::');
} else {
  const [host = '', port = '', count = '', file = ''] = rest;
  const answers: number[] = [];
  let ended = 0;
  for (let index = 0; index < Number(count); index++) {
    answers[index] = 0;
    const session = connect(`http://${host}:${port}`);
    session.on('error', () => undefined);
    session.on('close', () => {
      ended++;
    });
    const ask = (): void => {
      const stream = session.request({ ':path': '/' });
      stream.resume();
      stream.on('error', () => undefined);
      stream.on('end', () => {
        answers[index] = (answers[index] ?? 0) + 1;
        setTimeout(ask, PAUSE_MS);
      });
    };
    ask();
  }
  setInterval(() => {
    writeFileSync(`${file}.new`, JSON.stringify({ answers, ended }));
    renameSync(`${file}.new`, file);
  }, PAUSE_MS);
}
