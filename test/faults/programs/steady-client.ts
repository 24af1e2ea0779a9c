// SPDX-License-Identifier: Apache-2.0
// Asks an HTTP server at a fixed rate, whatever became of earlier requests: `HOST PORT RATE FILE`. Each line of FILE is
// a request: when it was due (ms since the epoch), how long after that its answer was complete, and what failed.

import { appendFileSync } from 'node:fs';
import { Agent, request } from 'node:http';

const [host = '', port = '', rate = '', file = ''] = process.argv.slice(2);
const PERIOD_MS = 1000 / Number(rate);
/** Every so many goes over a connection of its own. */
const NEW_EACH = 10;
const TELL_MS = 250;
const TIMEOUT_MS = 20_000;

/** More than are needed: a request that waits for another one here would say nothing about the mesh. */
const kept = new Agent({ keepAlive: true, maxSockets: 64 });
let lines = '';
let asked = 0;

function ask(dueMs: number): void {
  const agent = asked++ % NEW_EACH === 0 ? false : kept;
  const ended = (what: string): void => {
    lines += `${dueMs} ${Date.now() - dueMs} ${what}\n`;
  };
  const sent = request({ host, port, agent, path: '/', timeout: TIMEOUT_MS }, (response) => {
    response.resume();
    response.on('end', () => ended(response.statusCode === 200 ? 'ok' : String(response.statusCode)));
    response.on('error', (error) => ended(error.message));
  });
  sent.on('timeout', () => sent.destroy(new Error('timeout')));
  sent.on('error', (error) => ended(error.message.replaceAll(' ', '-')));
  sent.end();
}

let due = Date.now();
setInterval(() => {
  for (; due <= Date.now(); due += PERIOD_MS) ask(Math.round(due));
}, 2);
setInterval(() => {
  if (lines === '') return;
  appendFileSync(file, lines);
  lines = '';
}, TELL_MS);
