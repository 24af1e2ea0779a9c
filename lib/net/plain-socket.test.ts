// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { after, describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { close, getsockopt, SO_KEEPALIVE, SOL_SOCKET, stableBytes } from './native.ts';
import { listenPlain, openTcp } from './plain-fixture.ts';
import { PlainSocket } from './plain-socket.ts';
import { ReadBudget } from './read-budget.ts';
import { Readiness } from './readiness.ts';

const SIZE = 12 << 20;

describe('a plain socket', () => {
  const open = new Set<number>();
  const readiness = new Readiness({
    keep: (fd) => void open.add(fd),
    close: (fd) => {
      open.delete(fd);
      close(fd);
    },
  });
  const ofReadiness = [...open];
  const server = listenPlain(readiness);
  after(() => {
    server.listener.close();
    const { conduit } = readiness;
    assert.deepEqual([...open], [...ofReadiness, ...conduit.ends], 'every descriptor is closed');
    readiness.close();
    assert.equal(open.size, 0);
  });

  /** A client of Node.js and our end. */
  const pair = async (): Promise<[Socket, PlainSocket]> => {
    const client = connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true });
    const [fd] = await Promise.all([server.accepted(), once(client, 'connect')]);
    return [client, new PlainSocket(readiness, fd)];
  };
  const collect = (plain: PlainSocket): { bytes: Buffer[]; ended: Promise<unknown> } => {
    const bytes: Buffer[] = [];
    plain.onBytes = (buffer, length) => void bytes.push(Buffer.from(buffer.subarray(0, length)));
    return { bytes, ended: once(plain, 'end') };
  };
  const received = async (socket: Socket): Promise<Buffer> => {
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => void chunks.push(chunk));
    socket.resume();
    await once(socket, 'end');
    return Buffer.concat(chunks);
  };
  /** Not `once`, which rejects where there is an 'error' before. */
  const closeOf = (plain: PlainSocket): Promise<void> =>
    new Promise((resolve) => {
      plain.on('close', resolve);
    });

  test('reads only while it is resumed, then the end; its own direction stays open until it ends it', async () => {
    const [client, plain] = await pair();
    const { bytes, ended } = collect(plain);
    client.end('one');
    for (let count = 0; count < 5; count++) await turn();
    assert.equal(bytes.length, 0);
    assert.equal(plain.readableEnded, false);
    plain.resume();
    await ended;
    assert.equal(String(Buffer.concat(bytes)), 'one');
    assert.equal(plain.bytesRead, 3);
    assert.equal(plain.destroyed, false);
    const closed = closeOf(plain);
    assert.equal(plain.write(Buffer.from('still open')), true);
    plain.end();
    assert.equal(String(await received(client)), 'still open');
    assert.equal(plain.bytesWritten, 10);
    await closed;
    assert.equal(plain.fd, -1);
  });

  /** Passes all that comes to one end on to the other, as a relay does; counts what it got to see of it. */
  const pass = (from: PlainSocket, to: PlainSocket): { seen: number; passed: number } => {
    const counts = { seen: 0, passed: 0 };
    const hold = (): void => {
      if (to.writableLength > 0) from.pause();
    };
    from.onBytes = (buffer, length) => {
      counts.seen += length;
      to.writeBytes(buffer, length);
      hold();
    };
    from.passTo(to, () => {
      counts.passed++;
      hold();
    });
    to.on('drain', () => from.resume());
    from.on('end', () => to.end());
    to.onBytes = () => assert.fail('nothing comes back');
    from.resume();
    to.resume();
    return counts;
  };

  test('bulk passes to another socket within the kernel, whole, however slowly that is read', async () => {
    const [client, from] = await pair();
    const [reader, to] = await pair();
    const sent = randomBytes(SIZE);
    client.end(sent);
    const counts = pass(from, to);
    const chunks: Buffer[] = [];
    for await (const chunk of reader) {
      chunks.push(chunk as Buffer);
      if (chunks.length % 8 === 0) await turn();
    }
    assert.ok(Buffer.concat(chunks).equals(sent));
    assert.ok(counts.passed > 0 && counts.seen < SIZE / 2, JSON.stringify(counts));
    assert.equal(from.bytesRead, SIZE);
    assert.equal(to.bytesWritten, SIZE);
    const closed = [closeOf(from), closeOf(to)];
    from.end();
    reader.end();
    await Promise.all(closed);
  });

  test('of bulk that leaves in part before its socket fails, nothing is left for the next', async () => {
    const { conduit } = readiness;
    const [client, from] = await pair();
    const [reader, to] = await pair();
    const [gone, lost] = await pair();
    client.write('lost, all of it');
    await once(from, 'end', { signal: AbortSignal.timeout(20) }).catch(() => undefined);
    const length = conduit.take(from.fd);
    assert.equal(length, 15);
    assert.equal(conduit.give(to.fd, 5), 5);
    lost.on('error', () => undefined);
    gone.resetAndDestroy();
    let answer = 0;
    while (answer >= 0) {
      await turn();
      answer = conduit.give(lost.fd, 0) < 0 ? -1 : conduit.give(lost.fd, length - 5);
    }
    conduit.discard();
    client.write('next');
    while (conduit.take(from.fd) < 0) await turn();
    assert.equal(conduit.give(to.fd, 4), 4);
    to.end();
    assert.equal(String(await received(reader)), 'lost,next');
    for (const socket of [from, to, lost, client, reader]) socket.destroy();
  });

  test('bulk for a socket that is gone goes to nobody, least of all the next', async () => {
    const much = randomBytes(SIZE);
    const [lost, lostFrom] = await pair();
    const [gone, goneTo] = await pair();
    const failed = closeOf(goneTo);
    goneTo.on('error', () => undefined);
    pass(lostFrom, goneTo);
    // Until the kernel has no room for more, and the rest is with us.
    while (goneTo.writableLength === 0) {
      if (lost.writableLength === 0) lost.write(much);
      await turn();
    }
    gone.resetAndDestroy();
    await failed;
    lostFrom.resume();
    for (let count = 0; count < 20; count++) await turn();
    lostFrom.destroy();
    lost.destroy();

    const [client, from] = await pair();
    const [reader, to] = await pair();
    const sent = randomBytes(SIZE);
    client.end(sent);
    pass(from, to);
    assert.ok((await received(reader)).equals(sent));
    const closed = [closeOf(from), closeOf(to)];
    from.end();
    reader.end();
    await Promise.all(closed);
  });

  test('says FIN alone, and goes on reading', async () => {
    const [client, plain] = await pair();
    const { bytes, ended } = collect(plain);
    plain.resume();
    plain.end();
    assert.equal((await received(client)).length, 0);
    assert.equal(plain.destroyed, false);
    const closed = closeOf(plain);
    client.end('late');
    await Promise.all([ended, closed]);
    assert.equal(String(Buffer.concat(bytes)), 'late');
  });

  test('much is written and read whole, a slow reader makes it wait and drain', async () => {
    const [client, plain] = await pair();
    const sent = randomBytes(SIZE);
    client.pause();
    const bytes = Buffer.from(sent);
    assert.equal(plain.write(bytes), false);
    // What waits is a copy.
    bytes.fill(0);
    assert.ok(plain.writableNeedDrain && plain.writableLength > 0);
    const { bytes: read, ended } = collect(plain);
    plain.resume();
    const drained = once(plain, 'drain');
    client.write(sent);
    const [back] = await Promise.all([
      received(client),
      drained.then(() => {
        assert.equal(plain.writableLength, 0);
        client.end();
      }),
      ended.then(() => plain.end()),
    ]);
    assert.ok(sent.equals(back));
    assert.ok(sent.equals(Buffer.concat(read)));
    assert.equal(plain.bytesRead, SIZE);
    assert.equal(plain.bytesWritten, SIZE);
  });

  test('bytes that are said to be the last before an end arrive with it', async () => {
    const [client, plain] = await pair();
    plain.writeBytes(Buffer.from('the last'), 8, true);
    plain.end();
    assert.equal(String(await received(client)), 'the last');
    client.end();
    plain.resume();
    await closeOf(plain);
  });

  test('what waits leaves before the FIN', async () => {
    const [client, plain] = await pair();
    client.pause();
    plain.write(Buffer.alloc(SIZE, 1));
    plain.end();
    plain.resume();
    plain.onBytes = () => assert.fail('nothing is sent');
    assert.equal((await received(client)).length, SIZE);
    client.end();
    await closeOf(plain);
  });

  test('a pod that has read its share goes on in a later turn', async () => {
    const [client, plain] = await pair();
    let held = 0;
    plain.budget = new ReadBudget(() => held++);
    const { bytes, ended } = collect(plain);
    const keep = plain.onBytes;
    plain.onBytes = (buffer, length) => {
      keep?.(buffer, length);
      // Work counts as bytes do.
      const busyMs = length > 4096 ? 5 : 0;
      for (const until = performance.now() + busyMs; performance.now() < until; );
    };
    const sent = randomBytes(SIZE / 12);
    client.end(sent);
    plain.resume();
    await ended;
    assert.ok(sent.equals(Buffer.concat(bytes)));
    assert.ok(held > 0);
    plain.destroy();
    await closeOf(plain);
  });

  test('stops where its receiver pauses, in the middle of what is there', async () => {
    const [client, plain] = await pair();
    client.end(Buffer.alloc(SIZE));
    const calls: number[] = [];
    let called = (): void => undefined;
    plain.onBytes = (_buffer, length) => {
      calls.push(length);
      plain.pause();
      called();
    };
    for (let count = 1; count <= 5; count++) {
      const next = new Promise<void>((resolve) => {
        called = resolve;
      });
      plain.resume();
      await next;
      await turn();
      assert.equal(calls.length, count);
    }
    const ended = once(plain, 'end');
    plain.onBytes = () => undefined;
    plain.resume();
    await ended;
    plain.destroy();
    await closeOf(plain);
  });

  test('a receiver that closes it hears no more; the close comes once, later', async () => {
    const [client, plain] = await pair();
    client.on('error', () => undefined);
    client.write('first');
    let closes = 0;
    plain.on('close', () => closes++);
    plain.on('end', () => assert.fail('it was closed before'));
    plain.onBytes = () => {
      plain.destroy();
      plain.destroy();
      plain.write(Buffer.from('nothing'));
      assert.equal(closes, 0);
    };
    plain.resume();
    await closeOf(plain);
    await turn();
    assert.equal(closes, 1);
    client.destroy();
  });

  test('bytes without a receiver close it', async () => {
    const [client, plain] = await pair();
    client.on('error', () => undefined);
    client.write('nobody asked');
    plain.resume();
    await closeOf(plain);
    client.destroy();
  });

  test('a reset of the peer is an error, also while nothing was read yet', async () => {
    for (const early of [true, false]) {
      const [client, plain] = await pair();
      plain.onBytes = () => undefined;
      const failed = once(plain, 'error');
      const closed = closeOf(plain);
      if (early) {
        client.resetAndDestroy();
        await once(client, 'close');
        plain.resume();
      } else {
        plain.resume();
        await turn();
        client.resetAndDestroy();
      }
      const [error] = (await failed) as [NodeJS.ErrnoException];
      assert.equal(error.code, 'ECONNRESET');
      await closed;
    }
  });

  test('writing to a peer that is gone is an error', async () => {
    const [client, plain] = await pair();
    client.resetAndDestroy();
    await once(client, 'close');
    plain.on('error', () => undefined);
    plain.write(Buffer.from('to nobody'));
    assert.equal(plain.destroyed, true);
    await closeOf(plain);
  });

  test('its reset is an error to the peer', async () => {
    const [client, plain] = await pair();
    const failed = once(client, 'error');
    const closed = closeOf(plain);
    plain.reset();
    assert.equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNRESET');
    await closed;
  });

  test('dials, and what was written before is the first to arrive', async () => {
    const other = createServer();
    for (const host of ['127.0.0.1', '::1']) {
      other.listen(0, host);
      await once(other, 'listening');
      const { port } = other.address() as AddressInfo;
      const accepted = once(other, 'connection');
      const plain = new PlainSocket(readiness, host === '::1' ? openTcp(6) : openTcp());
      open.add(plain.fd);
      plain.setNoDelay();
      plain.connect(host, port);
      assert.equal(plain.connecting, true);
      plain.write(Buffer.from('early '));
      await once(plain, 'connect');
      assert.equal(plain.connecting, false);
      plain.setKeepAlive(true, 10_000);
      const value = stableBytes(4);
      const length = stableBytes(4);
      length.writeUInt32LE(4);
      getsockopt(plain.fd, SOL_SOCKET, SO_KEEPALIVE, value, length);
      assert.equal(value.readInt32LE(), 1);
      plain.write(Buffer.from('and late'));
      plain.end();
      plain.resume();
      const [peer] = (await accepted) as [Socket];
      assert.equal(String(await received(peer)), 'early and late');
      peer.end();
      await closeOf(plain);
      const closed = once(other, 'close');
      other.close();
      await closed;
    }
  });

  test('an end that was said while it dialled follows the connect', async () => {
    const plain = new PlainSocket(readiness, openTcp());
    open.add(plain.fd);
    plain.connect('127.0.0.1', server.port);
    plain.end();
    const other = new PlainSocket(readiness, await server.accepted());
    const { ended } = collect(other);
    other.resume();
    await ended;
    other.end();
    plain.resume();
    await Promise.all([closeOf(plain), closeOf(other)]);
  });

  test('a refused dial is an error and a close, later', async () => {
    const other = createServer();
    other.listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    other.close();
    await once(other, 'close');
    const plain = new PlainSocket(readiness, openTcp());
    const failed = once(plain, 'error');
    const closed = closeOf(plain);
    open.add(plain.fd);
    plain.connect('127.0.0.1', port);
    assert.equal(((await failed)[0] as NodeJS.ErrnoException).code, 'ECONNREFUSED');
    await closed;
  });

  test('closing others in the same turn tells nobody of a descriptor that is used again', async () => {
    const pairs = await Promise.all(Array.from({ length: 20 }, pair));
    let told = 0;
    for (const [client, plain] of pairs) {
      client.on('error', () => undefined);
      plain.onBytes = () => {
        told++;
        // Whoever is first ends all others, and new sockets get their numbers.
        for (const [, other] of pairs) if (other !== plain) other.destroy();
        for (let count = 0; count < 5; count++) {
          const again = new PlainSocket(readiness, openTcp());
          open.add(again.fd);
          again.onBytes = () => assert.fail('nothing is sent to it');
          again.resume();
          again.on('error', () => undefined);
        }
      };
      plain.resume();
    }
    await turn();
    const closed = Promise.all(pairs.slice(1).map(([, plain]) => closeOf(plain)));
    for (const [client] of pairs) client.write('x');
    await closed;
    assert.equal(told, 1);
    for (const [client, plain] of pairs) {
      client.destroy();
      plain.destroy();
    }
  });
});
