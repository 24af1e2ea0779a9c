// SPDX-License-Identifier: Apache-2.0
// Clients of the keeper that break the protocol, flood it, do not read, or come past a limit: each gets its answer or
// is dropped, nothing leaks, and a client that behaves does not notice.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, statSync } from 'node:fs';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { MeshError } from '#lib/core/errors.ts';
import type { KeeperClient } from '#lib/keeper/client.ts';
import {
  BLOB_BYTES_MAX,
  decodePacket,
  encodeHeader,
  KEY_BYTES_MAX,
  META_BYTES_MAX,
  type Packet,
  replyTypes,
  reasons,
  requestTypes,
} from '#lib/keeper/wire.ts';
import { connectPackets, PacketSocket, sealedCopy } from '#lib/net/descriptor-passing.ts';
import { close } from '#lib/net/native.ts';
import { eventually, type KeeperProcess, KeeperScene, openDescriptors } from './keeper-process.ts';

const NO_META = Buffer.alloc(0);
const refusedFor =
  (text: RegExp) =>
  (error: MeshError): boolean =>
    error.code === 'MESH_KEEPER_REFUSED' && text.test(error.message);

/** A client that sends what it is told. */
class RawClient {
  readonly socket: PacketSocket;

  constructor(path: string, timeoutMs = 5000) {
    const fd = connectPackets(path, timeoutMs);
    assert.ok(fd > 0);
    this.socket = new PacketSocket(fd, 4096);
  }

  /** The answer; undefined: the keeper has closed, or says nothing. */
  ask(type: number, number: number, rest: Buffer = NO_META, fd?: number, keyBytes = 0): Packet | undefined {
    const sent = this.socket.send([encodeHeader(type, keyBytes, number), rest], fd);
    return sent < 0 ? undefined : this.answer();
  }

  answer(): Packet | undefined {
    const received = this.socket.receive();
    if (typeof received === 'number' || received.bytes === 0) return undefined;
    for (const fd of received.descriptors) close(fd);
    return decodePacket(this.socket.data, received.bytes);
  }

  greet(): this {
    assert.equal(this.ask(requestTypes.hello, 1)?.type, replyTypes.ok);
    return this;
  }

  refusal(...request: Parameters<RawClient['ask']>): number | undefined {
    const reply = this.ask(...request);
    return reply?.type === replyTypes.refused ? reply.number : undefined;
  }

  close(): void {
    close(this.socket.fd);
  }
}

describe('clients that misbehave', { timeout: 300_000 }, () => {
  let scene: KeeperScene;
  let keeper: KeeperProcess;
  let client: KeeperClient;
  let listener: number;
  let descriptors: number;

  beforeEach(async () => {
    scene = new KeeperScene('hostile');
    keeper = await scene.keeper();
    client = scene.client();
    listener = scene.listener().fd;
    client.put('mine', Buffer.from('meta'), listener);
    client.hold();
    assert.equal(client.beat(), 'holder');
    descriptors = openDescriptors(keeper.pid);
  });
  afterEach(async () => {
    try {
      // Whatever was done: the keeper is the same process, nothing leaked, the holder holds.
      assert.equal(keeper.child.exitCode ?? keeper.child.signalCode, null);
      await eventually('every descriptor is closed', () => openDescriptors(keeper.pid) === descriptors);
      assert.equal(client.beat(), 'holder');
      const left = client.list().descriptors;
      assert.deepEqual(
        left.map(({ key }) => key),
        ['mine'],
      );
      for (const { fd } of left) close(fd);
    } finally {
      await scene.close();
    }
  });

  it('a reason for each request that is no good', () => {
    const raw = new RawClient(scene.socketPath);
    const key = (length: number): Buffer => Buffer.alloc(length, 'k');
    const file = openSync('/dev/null', 'r');
    const unsealed = openSync(scene.dir, 0o20200000 | 2); // O_TMPFILE, O_RDWR
    assert.equal(raw.refusal(requestTypes.beat, 0), reasons.noGreeting);
    assert.equal(raw.refusal(requestTypes.hello, 2), reasons.badVersion);
    raw.greet();
    assert.equal(raw.refusal(99, 0), reasons.badMessage);
    assert.equal(raw.refusal(0, 0), reasons.badMessage);
    assert.equal(raw.refusal(requestTypes.put, 0, key(10), listener, 11), reasons.badMessage);
    assert.equal(raw.refusal(requestTypes.put, 0, key(10), listener, 0), reasons.badKey);
    assert.equal(raw.refusal(requestTypes.put, 0, key(256), listener, 256), reasons.badKey);
    assert.equal(raw.refusal(requestTypes.del, 0, key(256), undefined, 256), reasons.badKey);
    assert.equal(raw.refusal(requestTypes.put, 0, key(1 + META_BYTES_MAX + 1), listener, 1), reasons.badMeta);
    assert.equal(raw.refusal(requestTypes.put, 0, key(2000), listener, 1), reasons.badMessage);
    assert.equal(raw.refusal(requestTypes.put, 0, key(3), undefined, 3), reasons.noDescriptor);
    assert.equal(raw.refusal(requestTypes.beat, 0, NO_META, listener), reasons.noDescriptor);
    assert.equal(raw.refusal(requestTypes.put, 0, key(3), file, 3), reasons.notAListener);
    assert.equal(raw.refusal(requestTypes.blob, 0, NO_META, file), reasons.notSealed);
    assert.equal(raw.refusal(requestTypes.blob, 0, NO_META, unsealed), reasons.notSealed);
    assert.equal(client.stats().refused, 15);
    closeSync(file);
    closeSync(unsealed);
    raw.close();
  });

  it('keys and meta at their limits are kept, one past is refused here already', () => {
    const key = 'k'.repeat(KEY_BYTES_MAX);
    const meta = randomBytes(META_BYTES_MAX);
    client.put(key, meta, listener);
    const listed = client.list().descriptors;
    assert.deepEqual(listed.find((entry) => entry.key === key)?.meta, meta);
    for (const { fd } of listed) close(fd);
    client.remove(key);
    assert.throws(() => client.put(`${key}k`, meta, listener), /256 bytes/);
    assert.throws(() => client.put(key, randomBytes(META_BYTES_MAX + 1), listener), /1025 bytes/);
    assert.throws(() => client.put('', meta, listener), /0 bytes/);
  });

  it('a blob that is too long is refused, by the client and by the keeper', () => {
    assert.throws(() => client.setBlob(Buffer.alloc(BLOB_BYTES_MAX + 1)), /allowed/);
    const raw = new RawClient(scene.socketPath).greet();
    const fd = sealedCopy('too-long', Buffer.alloc(BLOB_BYTES_MAX + 1));
    assert.equal(raw.refusal(requestTypes.blob, 0, NO_META, fd), reasons.blobTooLong);
    close(fd);
    raw.close();
  });

  it('a descriptor that is none, or no listener, costs an error and nothing else', () => {
    const before = openDescriptors();
    assert.throws(() => client.put('x', NO_META, 1_000_000), /EBADF/);
    const file = openSync('/dev/null', 'r');
    assert.throws(() => client.put('x', NO_META, file), refusedFor(/not a listening socket/));
    closeSync(file);
    assert.equal(openDescriptors(), before);
  });

  it('eight clients at once, not nine', async () => {
    const raws = Array.from({ length: 7 }, () => new RawClient(scene.socketPath).greet());
    const before = openDescriptors();
    assert.throws(() => scene.client(), refusedFor(/no room for another client/));
    assert.equal(openDescriptors(), before);
    raws.pop()?.close();
    await eventually('there is room again', () => client.stats().clients === 7);
    scene.client().close();
    for (const raw of raws) raw.close();
  });

  it('garbage of every length', async () => {
    for (let round = 0; round < 20; round++) {
      const raw = new RawClient(scene.socketPath, 200);
      if (round % 2 === 0) raw.greet();
      for (let length = 1; length < 2500; length += 1 + Math.floor(length / 7)) {
        const bytes = randomBytes(length);
        // A random type would seldom be a known one. DEL, HOLD and BLOB of others are no attack: they are trusted.
        if (length > 2) bytes.writeUInt16LE([0, 1, 2, 4, 7, 8, 130, 4711][length % 8] ?? 0, 0);
        const fd = length % 3 === 0 ? openSync('/dev/null', 'r') : undefined;
        if (raw.socket.send([bytes], fd) > 0) raw.answer();
        if (fd !== undefined) closeSync(fd);
      }
      raw.close();
    }
  });

  it('whoever closes in the middle of a list, or floods without reading, is gone', async () => {
    for (let index = 0; index < 1000; index++) client.put(`many-${index}`, NO_META, listener);
    const before = openDescriptors(keeper.pid);
    for (let round = 0; round < 20; round++) {
      const raw = new RawClient(scene.socketPath).greet();
      raw.socket.send([encodeHeader(requestTypes.list, 0, 0)]);
      if (round % 2 === 0) raw.answer();
      raw.close();
    }
    const flood = new RawClient(scene.socketPath, 1000).greet();
    let sent = 0;
    while (flood.socket.send([encodeHeader(requestTypes.stats, 0, 0)]) > 0 && sent < 100_000) sent++;
    assert.ok(sent < 100_000, 'the keeper read on and on');
    await eventually('it is dropped', () => client.stats().dropped === 1);
    await eventually('it is logged', () => keeper.said('a client is dropped'));
    flood.close();
    await eventually('all are gone', () => openDescriptors(keeper.pid) === before);
    assert.equal(client.remove('many-'), 1000);
  });

  it('whoever does not read its list is dropped; meanwhile others are served at once', async () => {
    for (let index = 0; index < 2000; index++) client.put(`many-${index}`, NO_META, listener);
    const slow = new RawClient(scene.socketPath).greet();
    slow.socket.send([encodeHeader(requestTypes.list, 0, 0)]);
    let served = 0;
    await eventually('it is dropped', () => {
      const { dropped } = client.stats();
      client.beat();
      served++;
      return dropped === 1;
    });
    // It is borne with for 5 s. Who had to wait for its end would be served once.
    assert.ok(served > 5, `others were served ${served} times meanwhile`);
    slow.close();
    client.remove('many-');
  });

  it('whoever does not say hello is dropped', async () => {
    const silent = new RawClient(scene.socketPath, 20_000);
    assert.equal(silent.answer(), undefined);
    assert.equal(client.stats().dropped, 1);
    silent.close();
  });

  it('the socket is for its owner only', () => {
    assert.equal(statSync(scene.socketPath).mode & 0o777, 0o600);
    assert.throws(() =>
      execFileSync(
        'setpriv',
        [
          '--reuid=12345',
          '--clear-groups',
          'socat',
          '-u',
          'OPEN:/dev/null',
          `UNIX:${scene.socketPath},type=5`,
        ],
        { stdio: 'pipe' },
      ),
    );
  });
});

describe('a keeper', { timeout: 300_000 }, () => {
  let scene: KeeperScene;
  beforeEach(() => {
    scene = new KeeperScene('strict');
  });
  afterEach(() => scene.close());

  it('refuses a foreign uid whatever the modes say', async () => {
    const keeper = await scene.keeper({ uid: 12_345 });
    const before = openDescriptors(keeper.pid);
    assert.throws(() => scene.client(), refusedFor(/foreign uid/));
    assert.equal(openDescriptors(keeper.pid), before);
    assert.equal((await eventually('it is logged', () => keeper.said('refused')))['reason'], 'foreign uid');
  });

  it('holds as many listeners as its descriptor limit leaves room for, and says so', async () => {
    const keeper = await scene.keeper({ prefix: ['prlimit', '--nofile=42:42'] });
    assert.equal(keeper.said('leaves room for fewer listeners')?.['entriesMax'], 10);
    const client = scene.client();
    const { fd } = scene.listener();
    for (let index = 0; index < 10; index++) client.put(`key-${index}`, NO_META, fd);
    assert.throws(() => client.put('key-10', NO_META, fd), refusedFor(/no room for another entry/));
    client.put('key-9', Buffer.from('replaced'), fd);
    client.remove('key-0');
    client.put('key-10', NO_META, fd);
    // All that it is allowed to have besides.
    client.setBlob(Buffer.from('x'));
    client.setBlob(Buffer.from('y'));
    const others = Array.from({ length: 7 }, () => scene.client());
    for (const other of others) {
      const { descriptors, blob } = other.list();
      assert.deepEqual([descriptors.length, blob?.toString()], [10, 'y']);
      for (const descriptor of descriptors) close(descriptor.fd);
    }
    assert.equal(client.stats().entriesMax, 10);
  });

  it('does not start without a usable command line', () => {
    for (const args of [[], ['--socket'], ['--socket', '/x', '--limit-ms', '0'], ['--what', 'x']]) {
      assert.throws(() => execFileSync('build/keeper', args, { stdio: 'pipe' }), /usage: keeper/);
    }
  });
});
