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
import type { Endpoint } from '../model.ts';
import { decodeTransportHeader, type SessionProtocol } from '../tls/transport-header.ts';
import { dialTcp, headerOf } from './dial.ts';

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

describe('C-278 the header of a connection: protocol, name and port, as the endpoint says', () => {
  const endpoint: Endpoint = {
    ip: '192.0.2.1',
    port: 8080,
    identity: 'web.shop',
    inboundPort: 4143,
    weight: 1,
    labels: {},
    localPodUid: undefined,
  };
  const read = (more: Partial<Endpoint>, protocol: SessionProtocol) => {
    const bytes = headerOf({ ...endpoint, ...more }, protocol);
    if (bytes === null) return null;
    const decoded = decodeTransportHeader(bytes);
    assert.equal(decoded.kind === 'header' && decoded.bytes, bytes.length);
    return decoded.kind === 'header' ? decoded.header : null;
  };
  for (const protocol of [undefined, 'http1', 'http2'] as const) {
    it(`${protocol ?? 'opaque'}: none, without a name, with one, with one and a port`, () => {
      assert.equal(read({ inboundPort: undefined }, protocol), null);
      assert.deepEqual(read({}, protocol), { port: 8080, name: '', protocol });
      // The port is the endpoint's own where the name brings none.
      assert.deepEqual(read({ authorityOverride: 'web.far' }, protocol), {
        port: 8080,
        name: 'web.far',
        protocol,
      });
      assert.deepEqual(read({ authorityOverride: 'web.far:90', inboundPort: undefined }, protocol), {
        port: 90,
        name: 'web.far',
        protocol,
      });
    });
  }
});
