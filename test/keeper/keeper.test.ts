// SPDX-License-Identifier: Apache-2.0
// The keeper with real listeners in a network namespace: they outlive who made them, and are shut down when nobody
// beats any more. What hostile and broken clients get is hostile.test.ts.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MeshError } from '#lib/core/errors.ts';
import { PatientClock } from '#lib/core/patient-clock.ts';
import { connectKeeper } from '#lib/keeper/client.ts';
import { close } from '#lib/net/native.ts';
import { eventually, KeeperProcess, KeeperScene, openDescriptors } from './keeper-process.ts';

/** Longer than a busy machine lets the owner of a listener wait for its turn. */
const SHORT_LIMIT_MS = 3000;
const NO_META = Buffer.alloc(0);
const clock = new PatientClock();
const isUnavailable = (error: MeshError): boolean =>
  error.code === 'MESH_KEEPER_UNAVAILABLE' && error.retryable;

describe('the keeper', { timeout: 300_000 }, () => {
  let scene: KeeperScene;
  beforeEach(() => {
    scene = new KeeperScene('keeper');
  });
  afterEach(() => scene.close());

  it('keeps a listener and its backlog when the owner is killed', async () => {
    await scene.keeper();
    const { fd, port } = scene.listener();
    const owner = await scene.owner('pod/outbound/4/0', fd);
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    // Nobody accepts, nobody but the keeper has the listener: the connection waits.
    const waiting = scene.dial(port);
    assert.equal(await waiting.outcome, 'connected');
    waiting.socket.write('from the backlog');

    const { descriptors, blob } = scene.client().list();
    assert.deepEqual(
      descriptors.map(({ key, meta }) => [key, meta.toString()]),
      [['pod/outbound/4/0', 'meta']],
    );
    assert.equal(blob?.toString(), 'snapshot');
    const server = createServer((socket) =>
      socket.on('data', (chunk) => socket.end(`heard: ${String(chunk)}`)),
    );
    server.listen({ fd: descriptors[0]?.fd ?? -1 });
    const [answer] = (await once(waiting.socket, 'data')) as [Buffer];
    assert.equal(answer.toString(), 'heard: from the backlog');
    waiting.socket.destroy();
    server.close();
  });

  it('shuts listeners down without a beat: what waited ends, what comes is refused, all is forgotten', async () => {
    const keeper = await scene.keeper({ limitMs: SHORT_LIMIT_MS });
    const { fd, port } = scene.listener();
    const owner = await scene.owner('pod/outbound/4/0', fd);
    const client = scene.client();
    // A duplicate elsewhere, as a hanging agent has one, must not keep the listener open.
    const [duplicate] = client.list().descriptors;
    // Beats keep it longer than the limit.
    await sleep(2 * SHORT_LIMIT_MS);
    assert.equal(client.stats().entries, 1);
    assert.equal(client.beat(), 'other');
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    const [killedMs, countedFromMs] = [performance.now(), clock.nowMs()];
    const waiting = scene.dial(port);
    assert.equal(await waiting.outcome, 'connected');
    assert.equal(client.beat(), 'nobody');
    // Beats of one that does not hold do not count.
    await eventually(
      'the listener is shut down',
      () => client.beat() === 'nobody' && client.stats().shutdowns === 1,
    );
    const [tookMs, countedMs] = [performance.now() - killedMs, clock.nowMs() - countedFromMs];
    assert.ok(tookMs > SHORT_LIMIT_MS / 2 && countedMs < SHORT_LIMIT_MS + 3000, `${tookMs} ms`);
    await eventually('what waited ends', () => waiting.socket.closed);
    assert.equal(await scene.dial(port).outcome, 'ECONNREFUSED');
    assert.deepEqual(client.list(), { descriptors: [], blob: undefined });
    const { entries, blobBytes, holderAgeMs } = client.stats();
    assert.deepEqual(
      { entries, blobBytes, holderAgeMs },
      { entries: 0, blobBytes: 0, holderAgeMs: undefined },
    );
    assert.equal(keeper.said('no beat within the limit')?.['listeners'], 1);
    close(duplicate?.fd ?? -1);
  });

  it('lets a holder that was too late know that it is none', async () => {
    await scene.keeper({ limitMs: 300 });
    const client = scene.client();
    client.put('a', NO_META, scene.listener().fd);
    client.hold();
    await eventually('the limit', () => client.stats().shutdowns === 1);
    assert.equal(client.beat(), 'nobody');
  });

  it('gives the role to whoever asks last; when that one is gone nobody has it', async () => {
    await scene.keeper();
    const older = scene.client();
    const newer = scene.client();
    assert.equal(older.beat(), 'nobody');
    older.hold();
    assert.equal(older.beat(), 'holder');
    assert.equal(newer.beat(), 'other');
    newer.hold();
    assert.deepEqual([older.beat(), newer.beat()], ['other', 'holder']);
    newer.close();
    await eventually('the role is free', () => older.beat() === 'nobody');
    older.hold();
    assert.equal(older.beat(), 'holder');
  });

  it('replaces the entry of a key and the blob, and forgets by prefix', async () => {
    const keeper = await scene.keeper();
    const client = scene.client();
    const before = openDescriptors(keeper.pid);
    const first = scene.listener();
    const second = scene.listener();
    client.put('pod-1/a', Buffer.from('one'), first.fd);
    client.put('pod-1/a', Buffer.from('two'), second.fd);
    client.put('pod-1/b', NO_META, first.fd);
    client.put('pod-10/a', NO_META, first.fd);
    client.setBlob(Buffer.alloc(3_000_000, 1));
    client.setBlob(Buffer.alloc(5_000_000, 2));
    const listed = client.list();
    assert.deepEqual(listed.descriptors.map(({ key }) => key).sort(), ['pod-1/a', 'pod-1/b', 'pod-10/a']);
    assert.deepEqual(listed.blob, Buffer.alloc(5_000_000, 2));
    assert.equal(listed.descriptors.find(({ key }) => key === 'pod-1/a')?.meta.toString(), 'two');
    for (const { fd } of listed.descriptors) close(fd);
    assert.equal(client.remove('pod-1/'), 2);
    assert.equal(client.remove('pod-1/'), 0);
    assert.equal(client.stats().entries, 1);
    // One listener, one memfd.
    assert.equal(openDescriptors(keeper.pid), before + 2);
    assert.equal(client.remove(''), 1);
  });

  it('hands a blob out as sealed memory, and an empty one too', async () => {
    await scene.keeper();
    const client = scene.client();
    client.setBlob(Buffer.alloc(0));
    assert.equal(client.list().blob?.length, 0);
  });

  it('a listener that was removed is not shut down', async () => {
    await scene.keeper();
    const client = scene.client();
    const { fd, port } = scene.listener();
    client.put('a', NO_META, fd);
    client.remove('a');
    const dialled = scene.dial(port);
    assert.equal(await dialled.outcome, 'connected');
    dialled.socket.destroy();
  });

  it('a killed keeper costs the client an error that may be tried again; the next one takes over the path', async () => {
    const keeper = await scene.keeper();
    const client = scene.client();
    await keeper.end('SIGKILL');
    await eventually('its output is closed', () => keeper.child.stderr?.closed);
    const before = openDescriptors();
    assert.throws(() => client.beat(), isUnavailable);
    assert.equal(client.closed, true);
    assert.throws(() => client.beat(), isUnavailable);
    assert.equal(openDescriptors(), before - 1);
    assert.throws(() => scene.client(), isUnavailable);
    assert.equal(openDescriptors(), before - 1);
    await scene.keeper();
    assert.deepEqual(scene.client().list(), { descriptors: [], blob: undefined });
  });

  it('ends in order without touching what it kept', async () => {
    const keeper = await scene.keeper();
    const { fd, port } = scene.listener();
    scene.client().put('a', NO_META, fd);
    await keeper.end('SIGTERM');
    assert.equal(keeper.child.exitCode, 0);
    const dialled = scene.dial(port);
    assert.equal(await dialled.outcome, 'connected');
    dialled.socket.destroy();
  });

  it('a second keeper does not take the path of a living one, not even of one that hangs', async () => {
    const keeper = await scene.keeper();
    const client = scene.client();
    for (const state of ['running', 'stopped']) {
      if (state === 'stopped') keeper.child.kill('SIGSTOP');
      const second = new KeeperProcess(scene.socketPath, {});
      assert.equal(await second.ended(), 1, state);
      assert.ok(second.said('another keeper answers there'));
    }
    keeper.child.kill('SIGCONT');
    assert.equal(client.beat(), 'nobody');
  });

  it('time in which the keeper itself stood still does not count against the holder', async () => {
    const keeper = await scene.keeper({ limitMs: SHORT_LIMIT_MS });
    const { fd } = scene.listener();
    const owner = await scene.owner('a', fd);
    // As when the whole machine is paused.
    owner.kill('SIGSTOP');
    keeper.child.kill('SIGSTOP');
    await sleep(2 * SHORT_LIMIT_MS);
    keeper.child.kill('SIGCONT');
    owner.kill('SIGCONT');
    await eventually('the keeper notices', () => keeper.said('held up'));
    const client = scene.client();
    await sleep(SHORT_LIMIT_MS / 2);
    assert.deepEqual([client.beat(), client.stats().shutdowns], ['other', 0]);
  });

  it('a keeper that does not answer costs the time-out and no descriptor', async () => {
    const keeper = await scene.keeper();
    const client = connectKeeper(scene.socketPath, { timeoutMs: 2000 });
    const before = openDescriptors();
    keeper.child.kill('SIGSTOP');
    const started = performance.now();
    assert.throws(() => client.list(), isUnavailable);
    const tookMs = performance.now() - started;
    assert.ok(tookMs >= 1990 && tookMs < 30_000, `${tookMs} ms`);
    assert.equal(client.closed, true);
    assert.throws(() => connectKeeper(scene.socketPath, { timeoutMs: 300 }), isUnavailable);
    assert.equal(openDescriptors(), before - 1);
    keeper.child.kill('SIGCONT');
  });
});

describe('3000 listeners of a node', { timeout: 300_000 }, () => {
  let scene: KeeperScene;
  before(() => {
    scene = new KeeperScene('many');
  });
  after(() => scene.close());

  it('are listed whole, while others put and remove', async () => {
    await scene.keeper();
    const client = scene.client();
    const { fd } = scene.listener();
    for (let index = 0; index < 3000; index++) client.put(`pod-${index}`, Buffer.alloc(64, index), fd);
    client.setBlob(Buffer.from('x'));
    const before = openDescriptors();
    const other = scene.client();
    const { descriptors, blob } = other.list();
    assert.equal(new Set(descriptors.map(({ key }) => key)).size, 3000);
    assert.ok(descriptors.every(({ key, meta }) => meta.equals(Buffer.alloc(64, Number(key.slice(4))))));
    assert.equal(blob?.toString(), 'x');
    for (const descriptor of descriptors) close(descriptor.fd);
    assert.equal(openDescriptors(), before + 1);
    assert.equal(client.remove('pod-1'), 1111);
    const left = client.list().descriptors;
    assert.equal(left.length, 1889);
    for (const descriptor of left) close(descriptor.fd);
  });
});
