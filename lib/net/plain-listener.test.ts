// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { systemClock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import { checked, close, dup } from './native.ts';
import { listenPlain, openTcp } from './plain-fixture.ts';
import { PlainListener } from './plain-listener.ts';
import { PlainSocket } from './plain-socket.ts';
import { Readiness } from './readiness.ts';

const RLIMIT_NOFILE = 7;
const libc = koffi.load(null);
const getrlimit = libc.func('int getrlimit(int resource, void *limits)');
const setrlimit = libc.func('int setrlimit(int resource, const void *limits)');

describe('a plain listener', () => {
  let refuses = false;
  const readiness = new Readiness({
    keep: () => {
      if (refuses) throw new MeshError('MESH_LIMIT', 'no room in the table');
    },
    close,
  });
  after(() => readiness.close());

  test('accepts more than fit into a turn', async () => {
    const server = listenPlain(readiness);
    const clients = Array.from({ length: 100 }, () => connect(server.port, '127.0.0.1'));
    const accepted = new Set(await Promise.all(clients.map(() => server.accepted())));
    assert.equal(accepted.size, 100);
    for (const client of clients) client.destroy();
    for (const fd of accepted) close(fd);
    server.listener.close();
  });

  test('closed, it accepts no more, and another descriptor of the same socket does', async () => {
    const server = listenPlain(readiness);
    const copy = checked('dup', dup(server.listener.fd), 'a test');
    server.listener.close();
    server.listener.close();
    const client = connect(server.port, '127.0.0.1');
    await once(client, 'connect');
    let connection = -1;
    const arrived = new Promise<void>((resolve) => {
      const second = new PlainListener(copy, {
        readiness,
        clock: systemClock,
        accept: (fd) => {
          connection = fd;
          second.close();
          resolve();
        },
        failed: assert.fail,
      });
    });
    await arrived;
    close(connection);
    client.destroy();
  });

  test('without descriptors it says so and goes on when there are some', async () => {
    const server = listenPlain(readiness);
    const limits = Buffer.alloc(16);
    assert.equal(getrlimit(RLIMIT_NOFILE, limits), 0);
    const before = limits.readBigUInt64LE();
    const client = new PlainSocket(readiness, openTcp());
    // The lowest free one would be the next.
    const next = openTcp();
    close(next);
    limits.writeBigUInt64LE(BigInt(next));
    setrlimit(RLIMIT_NOFILE, limits);
    try {
      client.connect('127.0.0.1', server.port);
      while (server.failures.length === 0) await sleep(5);
    } finally {
      limits.writeBigUInt64LE(before);
      setrlimit(RLIMIT_NOFILE, limits);
    }
    assert.match(server.failures[0]?.message ?? '', /accept4 failed with EMFILE/);
    close(await server.accepted());
    client.destroy();
    server.listener.close();
  });

  test('a connection for whose note there is no room is closed', async () => {
    const server = listenPlain(readiness);
    refuses = true;
    const client = connect(server.port, '127.0.0.1');
    client.on('error', () => undefined);
    await once(client, 'close');
    refuses = false;
    assert.match(server.failures[0]?.message ?? '', /no room/);
    const second = connect(server.port, '127.0.0.1');
    close(await server.accepted());
    second.destroy();
    server.listener.close();
  });
});
