// SPDX-License-Identifier: Apache-2.0
// Opens many connections and holds them until the stop file is there. What became of them so far is in the report
// file, as JSON, once each has ended one way or another or some seconds have passed.
//   node flood.ts HOST PORT COUNT REPORT_FILE STOP_FILE

import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { errnoName } from '#lib/core/errors.ts';

const [host = '', port, count, reportFile = '', stopFile = ''] = process.argv.slice(2);
const SETTLE_MS = 3_000;
const outcomes = new Map<number, string>();

for (let index = 0; index < Number(count); index++) {
  const socket = connect({ host, port: Number(port), noDelay: true });
  outcomes.set(index, 'pending');
  socket.on('connect', () => outcomes.set(index, 'connected'));
  socket.on('error', (error) => outcomes.set(index, errnoName(error) ?? error.message));
  socket.on('end', () => outcomes.set(index, 'ended'));
  socket.resume();
}

const report = (): void => {
  const counts: Record<string, number> = {};
  for (const outcome of outcomes.values()) counts[outcome] = (counts[outcome] ?? 0) + 1;
  writeFileSync(`${reportFile}.new`, JSON.stringify(counts));
  renameSync(`${reportFile}.new`, reportFile);
};
setTimeout(report, SETTLE_MS);
setInterval(() => {
  if (existsSync(stopFile)) process.exit(0);
}, 50);
