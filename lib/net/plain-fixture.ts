// SPDX-License-Identifier: Apache-2.0
// For tests: a listener on 127.0.0.1 whose connections come as descriptors, and sockets of our own to dial with.

import { systemClock } from '#lib/core/clock.ts';
import {
  AF_INET,
  AF_INET6,
  bind,
  checked,
  getsockname,
  listen,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  socket,
  stableBytes,
} from './native.ts';
import { PlainListener } from './plain-listener.ts';
import type { Readiness } from './readiness.ts';
import { readSocketAddress, SOCKET_ADDRESS_BYTES, writeSocketAddress } from './socket-address.ts';

export const openTcp = (family: 4 | 6 = 4): number =>
  checked(
    'socket',
    socket(family === 4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
    'a test',
  );

export interface PlainServer {
  readonly listener: PlainListener;
  readonly port: number;
  readonly failures: Error[];
  /** The next connection's descriptor. */
  accepted(): Promise<number>;
}

/** `accept`: who gets them instead of `accepted`. */
export function listenPlain(readiness: Readiness, accept?: (fd: number) => void): PlainServer {
  const fd = openTcp();
  const address = stableBytes(SOCKET_ADDRESS_BYTES);
  const bytes = writeSocketAddress(address, '127.0.0.1', 0);
  checked('bind', bind(fd, address, bytes), 'a test');
  checked('listen', listen(fd, 128), 'a test');
  const length = stableBytes(4);
  length.writeUInt32LE(bytes);
  checked('getsockname', getsockname(fd, address, length), 'a test');
  const arrived: number[] = [];
  const waiting: ((fd: number) => void)[] = [];
  const failures: Error[] = [];
  const listener = new PlainListener(fd, {
    readiness,
    clock: systemClock,
    accept:
      accept ??
      ((connection) => {
        const next = waiting.shift();
        if (next === undefined) arrived.push(connection);
        else next(connection);
      }),
    failed: (error) => void failures.push(error),
  });
  return {
    listener,
    port: readSocketAddress(address).port,
    failures,
    accepted: () =>
      new Promise((resolve) => {
        const first = arrived.shift();
        if (first === undefined) waiting.push(resolve);
        else resolve(first);
      }),
  };
}
