// SPDX-License-Identifier: Apache-2.0
// Opens one gRPC call of each kind, none of which ends by itself, says when all of them are under way, and prints with
// which status each of them ended, as JSON: {"unary":"14 …",…}
//   node pieces-calls.ts HOST GRPC_PORT BEGUN_FILE

import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { Client, credentials, type StatusObject } from '@grpc/grpc-js';
import { calls } from '../pieces.ts';

const [host = '', port = '', begunFile = ''] = process.argv.slice(2);
const client = new Client(`${host}:${port}`, credentials.createInsecure(), { 'grpc.enable_retries': 0 });
const { unary, upload, download, both } = calls;
const bytes = unary.requestSerialize;
const message = Buffer.from('a message');
const nothing = (): undefined => undefined;

const opened = {
  unary: client.makeUnaryRequest(unary.path, bytes, bytes, message, nothing),
  upload: client.makeClientStreamRequest(upload.path, bytes, bytes, nothing),
  download: client.makeServerStreamRequest(download.path, bytes, bytes, message),
  both: client.makeBidiStreamRequest(both.path, bytes, bytes),
};
const ended = Object.entries(opened).map(async ([name, call]) => {
  const [status] = (await new Promise((resolve) =>
    call.once('status', (...args: [StatusObject]) => resolve(args)),
  )) as [StatusObject];
  return [name, `${status.code} ${status.details}`] as const;
});
for (const call of [opened.download, opened.both]) call.on('error', nothing);
opened.upload.write(message);
opened.both.write(message);
await Promise.all([once(opened.download, 'data'), once(opened.both, 'data')]);
opened.download.resume();
writeFileSync(begunFile, '');
process.stdout.write(JSON.stringify(Object.fromEntries(await Promise.all(ended))));
client.close();
