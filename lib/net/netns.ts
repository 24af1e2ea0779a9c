// SPDX-License-Identifier: Apache-2.0
// Short synchronous visits to another network namespace on the calling thread. Nothing asynchronous may happen during
// a visit, and no thread may be started: both would stay behind in, or be born into, the wrong namespace.

import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import {
  AF_INET,
  CLONE_NEWNET,
  checked,
  close,
  endProcess,
  errnoText,
  getsockopt,
  SO_NETNS_COOKIE,
  SOCK_CLOEXEC,
  SOCK_STREAM,
  SOL_SOCKET,
  setns,
  socket,
  stableBytes,
} from './native.ts';

/** Opened before the first visit; one per thread, since modules are per thread. */
let home = -1;
let away = false;

function homeNamespace(): number {
  if (home < 0) home = openNamespace('/proc/thread-self/ns/net');
  return home;
}

/** Opens a namespace file (`/run/netns/x`, `/proc/<pid>/ns/net`); the caller closes the descriptor. */
export function openNamespace(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY);
  } catch (error) {
    throw new MeshError('MESH_NETNS', `cannot open network namespace ${path}: ${errorMessage(error)}`, {
      cause: error,
    });
  }
}

export function closeNamespace(fd: number): void {
  closeSync(fd);
}

/**
 * Runs `visit` inside the namespace and comes back. A thread that cannot come back would open sockets in a pod without
 * anybody's knowledge, so the whole process ends then.
 */
export function inNamespace<T>(netnsFd: number, visit: () => T): T {
  if (away) throw new MeshError('MESH_NETNS', 'a visit to a network namespace began inside another one');
  const back = homeNamespace();
  const entered = setns(netnsFd, CLONE_NEWNET);
  if (entered < 0)
    throw new MeshError(
      'MESH_NETNS',
      `cannot enter network namespace: setns failed with ${errnoText(entered)}`,
    );
  away = true;
  try {
    return visit();
  } finally {
    const returned = setns(back, CLONE_NEWNET);
    if (returned < 0) {
      writeSync(2, `cannot return from a network namespace (${errnoText(returned)}): the process ends\n`);
      endProcess(70);
    }
    away = false;
  }
}

/** The namespace's cookie: unlike the inode number it is never used again until the machine restarts. */
export function netnsCookie(netnsFd: number): bigint {
  return inNamespace(netnsFd, () => {
    const context = 'reading the cookie of a network namespace';
    const fd = checked('socket', socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), context);
    try {
      const value = stableBytes(8);
      const length = stableBytes(4);
      length.writeUInt32LE(8);
      checked(
        'getsockopt(SO_NETNS_COOKIE)',
        getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, value, length),
        context,
      );
      return value.readBigUInt64LE();
    } finally {
      close(fd);
    }
  });
}
