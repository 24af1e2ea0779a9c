// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import { type HeldReader, ReadBudget } from '#lib/net/read-budget.ts';
import { proveUserBuffer } from '#lib/net/user-buffer.ts';
import { attachDataSource } from './byte-source.ts';

/** Used up whenever it is asked, until the reader is let go on. */
class SpentBudget extends ReadBudget {
  readonly readers: HeldReader[] = [];

  override take(_bytes: number, _tookMs: number, reader: HeldReader): boolean {
    this.readers.push(reader);
    return false;
  }
}

test('a source that changes to the receiver’s buffer just when its pod has read its share goes on reading afterwards', {
  timeout: 20_000,
}, async (t) => {
  assert.equal(await proveUserBuffer(silentLog), true);
  const server = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const peer = connect((server.address() as AddressInfo).port, '127.0.0.1');
  t.after(() => peer.destroy());
  const [socket] = (await once(server, 'connection')) as [Socket];
  t.after(() => socket.destroy());
  const source = attachDataSource(socket);
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise(setImmediate);
  };
  let text = '';
  source.onBytes = (buffer, length) => {
    text += buffer.toString('latin1', 0, length);
    if (text === 'first') socket.pause();
  };
  socket.resume();
  peer.write('first');
  await until(() => text === 'first');
  peer.write('second');
  // It waits in the stream, so that the change has to wait for it.
  await until(() => socket.readableLength > 0);
  source.readInto?.(Buffer.allocUnsafeSlow(1024));
  const budget = new SpentBudget(() => undefined);
  source.budget = budget;
  socket.resume();
  await until(() => budget.readers.length === 1);
  assert.equal(text, 'firstsecond');
  source.budget = null;
  for (const reader of budget.readers) reader.release();
  peer.write('third');
  await until(() => text === 'firstsecondthird');
});
