// SPDX-License-Identifier: Apache-2.0
// Sockets inside a pod's network namespace: the agent's listeners and the sockets by which it reaches out from the
// pod's own address. The descriptors belong to the caller, who closes them with `close` of native.ts.

import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { MeshError } from '#lib/core/errors.ts';
import type { DescriptorTable } from './descriptor-table.ts';
import {
  AF_INET,
  AF_INET6,
  bind,
  checked,
  close,
  EADDRINUSE,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPV6_V6ONLY,
  listen,
  SO_KEEPALIVE,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  setsockopt,
  socket,
  stableBytes,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
  TCP_NODELAY,
} from './native.ts';
import { inNamespace } from './netns.ts';
import { SOCKET_ADDRESS_BYTES, writeSocketAddress } from './socket-address.ts';

export const LISTEN_BACKLOG = 4096;
const BIND_ATTEMPTS = 64;
/** The highest ports, where no registered service lives. */
const PORTS_FIRST = 61_000;
const PORTS_LAST = 65_535;

const one = stableBytes(4);
one.writeInt32LE(1);

/**
 * A listener for one slot, on the loopback address and a free port that no connect of the pod will be given.
 * SO_REUSEADDR lets an application bind its own port again while the agent holds connections accepted on it.
 * No SO_REUSEPORT: any process of the same uid could join the group and take half of the connections.
 */
export function openListener(
  netnsFd: number,
  family: 4 | 6,
  pick: (first: number, last: number) => number = (first, last) => randomInt(first, last + 1),
): number {
  return inNamespace(netnsFd, () => {
    const context = `opening an IPv${family} listener in a pod`;
    const fd = openSocket(family, context);
    try {
      checked('setsockopt', setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, one, 4), context);
      if (family === 6) checked('setsockopt', setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, one, 4), context);
      bindLoopback(fd, family, freeRange(), pick);
      checked('listen', listen(fd, LISTEN_BACKLOG), context);
      return fd;
    } catch (error) {
      close(fd);
      throw error;
    }
  });
}

/** Level, name and value of each option, as Node.js sets them with `keepAlive`. */
export const keepAliveOptions = (idleSeconds: number): readonly (readonly [number, number, number])[] => [
  [SOL_SOCKET, SO_KEEPALIVE, 1],
  [IPPROTO_TCP, TCP_KEEPIDLE, idleSeconds],
  [IPPROTO_TCP, TCP_KEEPINTVL, 1],
  [IPPROTO_TCP, TCP_KEEPCNT, 10],
];

/**
 * What a listener has, the connections accepted on it have from the start (Linux): keep-alive and no delay cost five
 * system calls for each connection otherwise. Throws MeshError.
 */
export function setAcceptedOptions(fd: number, keepAliveSeconds: number): void {
  const value = stableBytes(4);
  const set = (level: number, name: number, number: number): void => {
    value.writeInt32LE(number);
    checked('setsockopt', setsockopt(fd, level, name, value, 4), 'preparing a listener');
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  for (const [level, name, number] of keepAliveOptions(keepAliveSeconds)) set(level, name, number);
}

/**
 * `count` sockets of the pod in one visit (single visits cost 17 us each), not bound and not connected. With a table
 * they are noted there, for the case that the thread dies.
 */
export function openSockets(
  netnsFd: number,
  family: 4 | 6,
  count: number,
  table?: DescriptorTable,
): number[] {
  return inNamespace(netnsFd, () => {
    const opened: number[] = [];
    try {
      for (let index = 0; index < count; index++) {
        const fd = openSocket(family, `opening an IPv${family} socket in a pod`);
        opened.push(fd);
        table?.add(fd);
      }
    } catch (error) {
      for (const fd of opened) {
        table?.remove(fd);
        close(fd);
      }
      throw error;
    }
    return opened;
  });
}

function openSocket(family: 4 | 6, context: string): number {
  const type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  return checked('socket', socket(family === 4 ? AF_INET : AF_INET6, type, 0), context);
}

/** Ports outside ip_local_port_range: the highest ones, else those above or below the pod's range. */
function freeRange(): { first: number; last: number } {
  const text = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'latin1');
  const [low = 32_768, high = 60_999] = text.trim().split(/\s+/).map(Number);
  if (high < PORTS_LAST) return { first: Math.max(high + 1, PORTS_FIRST), last: PORTS_LAST };
  return low > 1025
    ? { first: Math.max(1024, low - 4096), last: low - 1 }
    : { first: PORTS_FIRST, last: PORTS_LAST };
}

function bindLoopback(
  fd: number,
  family: 4 | 6,
  range: { first: number; last: number },
  pick: (first: number, last: number) => number,
): void {
  const address = stableBytes(SOCKET_ADDRESS_BYTES);
  let answer = -EADDRINUSE;
  for (let attempt = 0; attempt < BIND_ATTEMPTS && answer === -EADDRINUSE; attempt++) {
    const port = pick(range.first, range.last);
    answer = bind(fd, address, writeSocketAddress(address, family === 4 ? '127.0.0.1' : '::1', port));
  }
  if (answer === -EADDRINUSE) {
    throw new MeshError('MESH_LIMIT', `no free port between ${range.first} and ${range.last} in the pod`, {
      remedy: 'free ports there or narrow ip_local_port_range',
      retryable: true,
    });
  }
  checked('bind', answer, 'binding a listener in a pod');
}
