// SPDX-License-Identifier: Apache-2.0
// Connecting on real sockets: what counts as a timeout.

import assert from 'node:assert/strict';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import {
  AF_INET,
  checked,
  close,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  socket,
} from '#lib/net/native.ts';
import { plainReadiness } from '#lib/net/readiness.ts';
import { FAILURE_CONNECT_REFUSED, FAILURE_NONE } from '../failure.ts';
import type { WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { dialTcp } from './dial.ts';

const TIMEOUT_MS = 20;

describe('connecting', () => {
  let server: Server;
  const nothing = (): void => undefined;
  const readiness = plainReadiness();
  const context = {
    readiness,
    keepAlive: { add: nothing },
    kernel: { markOwn: nothing, handOver: nothing, closeDescriptor: close },
    clock: systemClock,
    log: silentLog,
  } as unknown as WorkerContext;
  const pod = {
    name: 'shop/web',
    gone: false,
    full: false,
    adopt: nothing,
    budgeted: <S>(source: S): S => source,
    spares: {
      take: () => checked('socket', socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'a test'),
    },
  } as unknown as PodState;

  before(async () => {
    server = createServer((accepted) => accepted.destroy());
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve);
    });
    // Until the event loop knows of `readiness`.
    for (let turns = 0; turns < 20; turns++) await new Promise(setImmediate);
  });
  after(() => {
    server.close();
    readiness.close();
  });

  const dial = (ip: string, port: number): Promise<number> =>
    new Promise((resolve) => {
      const options = { ip, port, timeoutMs: TIMEOUT_MS, mark: { kind: 'own' } } as const;
      dialTcp(context, pod, options, (failure, source) => {
        source?.socket.destroy();
        resolve(failure);
      });
    });
  const port = (): number => (server.address() as AddressInfo).port;

  it('a connection that stood before a busy thread looked is none that took too long', async () => {
    const failure = dial('127.0.0.1', port());
    // The thread does something else for longer than the timeout; the kernel has connected meanwhile.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3 * TIMEOUT_MS);
    assert.equal(await failure, FAILURE_NONE);
  });

  it('a refusal is told as one', async () => {
    const closed = createServer();
    await new Promise<void>((resolve) => {
      closed.listen(0, '127.0.0.1', resolve);
    });
    const { port: unused } = closed.address() as AddressInfo;
    await new Promise((resolve) => {
      closed.close(resolve);
    });
    assert.equal(await dial('127.0.0.1', unused), FAILURE_CONNECT_REFUSED);
  });
});
