// SPDX-License-Identifier: Apache-2.0
// The few calls of libc that Node.js does not offer, bound by koffi; safe on the main and on worker threads, because
// nothing here waits. Each function answers as the kernel does: a result, or -errno. `checked` turns the latter into a
// MeshError. Not here: libbpf, which belongs to the control thread (lib/bpf/libbpf-loader.ts).

import { arch } from 'node:process';
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';
import { MeshError } from '#lib/core/errors.ts';

export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const SOCK_STREAM = 1;
export const SOCK_RAW = 3;
export const SOCK_NONBLOCK = 0o4000;
export const SOCK_CLOEXEC = 0o2000000;
export const SOL_SOCKET = 1;
export const SO_REUSEADDR = 2;
export const SO_KEEPALIVE = 9;
export const SO_ACCEPTCONN = 30;
export const IPPROTO_TCP = 6;
export const TCP_NODELAY = 1;
export const TCP_KEEPIDLE = 4;
export const TCP_KEEPINTVL = 5;
export const TCP_KEEPCNT = 6;
export const SO_NETNS_COOKIE = 71;
export const IPPROTO_IPV6 = 41;
export const IPV6_V6ONLY = 26;
export const CLONE_NEWNET = 0x40000000;
export const MSG_PEEK = 0x2;
export const MSG_DONTWAIT = 0x40;

export const ENOENT = 2;
export const EINTR = 4;
export const EBADF = 9;
export const EAGAIN = 11;
export const EEXIST = 17;
export const EPIPE = 32;
export const EADDRINUSE = 98;
export const ECONNABORTED = 103;
export const ECONNRESET = 104;

const F_DUPFD_CLOEXEC = 1030;
/** Numbers of bpf(2). */
const SYS_BPF: Readonly<Record<string, number>> = {
  x64: 321,
  arm64: 280,
  riscv64: 280,
  ppc64: 361,
  s390x: 351,
};

const libc = koffi.load(null);

type IntCall<Args extends readonly unknown[]> = (...args: Args) => number;

/** Binds a function that answers below zero and sets errno when it fails. */
export const bindInt = <Args extends readonly unknown[]>(definition: string): IntCall<Args> => {
  const native = libc.func(definition) as IntCall<Args>;
  return (...args) => {
    const result = native(...args);
    return result < 0 ? -koffi.errno() : result;
  };
};

export const setns = bindInt<[fd: number, kind: number]>('int setns(int fd, int kind)');
export const socket = bindInt<[family: number, type: number, protocol: number]>(
  'int socket(int family, int type, int protocol)',
);
export const bind = bindInt<[fd: number, address: Uint8Array, length: number]>(
  'int bind(int fd, const void *address, unsigned int length)',
);
/** Of the calling thread, as in /proc/self/task. */
export const threadNumber = bindInt<[]>('int gettid()');
export const listen = bindInt<[fd: number, backlog: number]>('int listen(int fd, int backlog)');
export const getsockname = bindInt<[fd: number, address: Uint8Array, length: Uint8Array]>(
  'int getsockname(int fd, void *address, void *length)',
);
export const setsockopt = bindInt<
  [fd: number, level: number, name: number, value: Uint8Array, length: number]
>('int setsockopt(int fd, int level, int name, const void *value, unsigned int length)');
export const getsockopt = bindInt<
  [fd: number, level: number, name: number, value: Uint8Array, length: Uint8Array]
>('int getsockopt(int fd, int level, int name, void *value, void *length)');
export const send = bindInt<[fd: number, data: Uint8Array, length: number, flags: number]>(
  'long send(int fd, const void *data, unsigned long length, int flags)',
);
export const recv = bindInt<[fd: number, data: Uint8Array, length: number, flags: number]>(
  'long recv(int fd, void *data, unsigned long length, int flags)',
);
export const close = bindInt<[fd: number]>('int close(int fd)');

export const fcntl = bindInt<[fd: number, command: number, value: number]>(
  'int fcntl(int fd, int command, int value)',
);
const bpfCall = bindInt<[nr: number, command: number, attr: Uint8Array, size: number]>(
  'long syscall(long nr, int command, void *attr, unsigned int size)',
);
const exitNow = libc.func('void _exit(int status)') as (status: number) => void;

/** A duplicate that is closed on exec. */
export function dup(fd: number): number {
  return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/** bpf(2). `attr` must be memory that stays where it is: `stableBytes`. */
export function bpf(command: number, attr: Uint8Array): number {
  return bpfCall(bpfNumber, command, attr, attr.byteLength);
}
const bpfNumber = SYS_BPF[arch] ?? -1;

/** Ends the whole process at once, from whichever thread. */
export function endProcess(status: number): never {
  exitNow(status);
  throw new Error('unreachable');
}

/**
 * Zeroed memory outside the JavaScript heap, so that its address may be handed to the kernel. Large ones take up
 * memory only as far as they are written.
 */
export function stableBytes(size: number): Buffer {
  return Buffer.from(new ArrayBuffer(Math.max(size, 64)), 0, size);
}

/** The address of `stableBytes` memory. */
export function addressOf(bytes: Uint8Array): bigint {
  return koffi.address(bytes);
}

/** The errno name of an answer below zero. */
export function errnoText(answer: number): string {
  return getSystemErrorName(answer);
}

/** The error for an answer below zero of `call`. */
export function syscallError(call: string, answer: number, context: string): MeshError {
  const name = errnoText(answer);
  return new MeshError('MESH_SYSCALL', `${context}: ${call} failed with ${name}`, {
    cause: Object.assign(new Error(`${call}: ${name}`), { code: name, errno: answer, syscall: call }),
  });
}

/** Passes an answer on, or throws the MeshError that names call and errno. */
export function checked(call: string, answer: number, context: string): number {
  if (answer < 0) throw syscallError(call, answer, context);
  return answer;
}
