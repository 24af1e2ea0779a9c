// SPDX-License-Identifier: Apache-2.0
// A TCP connection without the streams of `net.Socket`, read and written by system calls of our own: for bytes that only
// pass, where most of a short connection's cost is making and taking down two streams. It has the part of `net.Socket`
// that a relay uses, with the same rules: half-open ends, 'close' after everything, never within the call that caused it.

import { EventEmitter } from 'node:events';
import {
  bindInt,
  EAGAIN,
  EINTR,
  errnoText,
  getsockname,
  getsockopt,
  IPPROTO_TCP,
  MSG_DONTWAIT,
  MSG_PEEK,
  recv,
  send,
  setsockopt,
  SOL_SOCKET,
  stableBytes,
  TCP_NODELAY,
} from './native.ts';
import { type HeldReader, READ_BYTES_MIN, type ReadBudget } from './read-budget.ts';
import {
  EPOLLERR,
  EPOLLET,
  EPOLLHUP,
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  type PutOff,
  type Readiness,
  type Watched,
} from './readiness.ts';
import { resetSocket } from './reset.ts';
import { readSocketAddress, SOCKET_ADDRESS_BYTES, writeSocketAddress } from './socket-address.ts';
import { keepAliveOptions } from './sockets.ts';

/** What is read at once, into one buffer of the thread: it is used up or copied before the callback returns. */
export const SHARED_BUFFER_BYTES = 65_536;
const shared = stableBytes(SHARED_BUFFER_BYTES);

const MSG_NOSIGNAL = 0x4000;
const MSG_MORE = 0x8000;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL;
const SHUT_WR = 1;
const SO_ERROR = 4;
const EINPROGRESS = 115;
const WATCHED_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
const UNWATCHED = -1;
/** Bulk is over when less comes at once. */
const BULK_BYTES_MIN = 32_768;

const connect = bindInt<[fd: number, address: Uint8Array, length: number]>(
  'int connect(int fd, const void *address, unsigned int length)',
);
const getpeername = bindInt<[fd: number, address: Uint8Array, length: Uint8Array]>(
  'int getpeername(int fd, void *address, void *length)',
);
const shutdown = bindInt<[fd: number, how: number]>('int shutdown(int fd, int how)');

const option = stableBytes(4);
const optionLength = stableBytes(4);
const address = stableBytes(SOCKET_ADDRESS_BYTES);
const addressLength = stableBytes(4);
/** Text on its way to the kernel. */
const scratch = stableBytes(65_536);
/** Of it may wait as much as with a stream of Node.js. */
const HIGH_WATER_BYTES = 65_536;

export class PlainSocket extends EventEmitter implements Watched, HeldReader, PutOff {
  /** It is its own source of bytes: see agent/proxy/exchange/byte-source.ts for the rules. */
  readonly socket = this;
  readonly encrypted = false;
  readonly writableHighWaterMark = HIGH_WATER_BYTES;
  onBytes: ((buffer: Buffer, length: number) => void) | null = null;
  budget: ReadBudget | null = null;
  bytesRead = 0;
  bytesWritten = 0;
  connecting = false;
  destroyed = false;
  /** The peer's FIN was read. */
  readableEnded = false;
  /** `end` was called. */
  writableEnded = false;
  readonly #readiness: Readiness;
  #fd: number;
  #number = UNWATCHED;
  #paused = true;
  #held = false;
  /** There may be something to read. An accepted one often has it before it is watched. */
  #readable = true;
  #finArrived = false;
  #finSent = false;
  #buffer = shared;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #error: Error | null = null;
  #sink: PlainSocket | null = null;
  #onPassed: (() => void) | null = null;
  /** Much is there at a time: it is moved to the sink without a look at it. */
  #bulk = false;
  #look: ((bytes: Buffer) => void) | null = null;
  #queued = false;
  #closeSaid = false;

  /** The descriptor is this object's from now on, and not watched before `resume`, `connect` or a write that waits. */
  constructor(readiness: Readiness, fd: number) {
    super();
    this.#readiness = readiness;
    this.#fd = fd;
  }

  /** -1 once it is closed. */
  get fd(): number {
    return this.#fd;
  }

  /** The peer's FIN has arrived: it is read right after what is there. */
  get ending(): boolean {
    return this.#finArrived;
  }

  get errored(): Error | null {
    return this.#error;
  }

  get writable(): boolean {
    return !this.destroyed && !this.writableEnded;
  }

  get localAddress(): string | undefined {
    return this.#address(getsockname)?.ip;
  }

  get localPort(): number | undefined {
    return this.#address(getsockname)?.port;
  }

  get remoteAddress(): string | undefined {
    return this.#address(getpeername)?.ip;
  }

  get remotePort(): number | undefined {
    return this.#address(getpeername)?.port;
  }

  get writableLength(): number {
    return this.#waitingBytes;
  }

  get writableNeedDrain(): boolean {
    return this.#waitingBytes > 0;
  }

  /** 'connect' or 'error' and 'close' follow, later. */
  connect(ip: string, port: number): void {
    this.connecting = true;
    this.#readable = false;
    const answer = connect(this.#fd, address, writeSocketAddress(address, ip, port));
    if (answer < 0 && answer !== -EINPROGRESS) this.#fail('connect', answer);
    else this.#watch();
  }

  setNoDelay(): void {
    this.#setOption(IPPROTO_TCP, TCP_NODELAY, 1);
  }

  setKeepAlive(_enable: true, afterMs: number): void {
    const options = keepAliveOptions(Math.ceil(afterMs / 1000));
    for (const [level, name, value] of options) this.#setOption(level, name, value);
  }

  /** Reads into another buffer from here on. */
  readInto(buffer: Buffer): void {
    this.#buffer = buffer;
  }

  /** Bulk may pass to `sink` within the kernel instead of to `onBytes`; `onPassed` follows each time. */
  passTo(sink: PlainSocket, onPassed: () => void): void {
    // Without descriptors for it bulk is copied.
    if (!this.#readiness.canPass) return;
    this.#sink = sink;
    this.#onPassed = onPassed;
  }

  /** Shows, once, what will be read first, or nothing at the end, and leaves it there. Then it is paused. */
  peek(look: (bytes: Buffer) => void): void {
    this.#look = look;
    this.resume();
  }

  pause(): void {
    this.#paused = true;
    this.#look = null;
  }

  resume(): void {
    this.#paused = false;
    this.#putOff();
  }

  release(): void {
    this.#held = false;
    if (!this.#paused) this.#putOff();
  }

  /** Takes a copy of what the kernel does not take at once; 'drain' follows when that has left. False: it waits. */
  write(bytes: Uint8Array, done?: () => void): boolean {
    this.writeBytes(bytes, bytes.length);
    done?.();
    return this.#waitingBytes === 0;
  }

  /** Text in latin1. */
  writeText(text: string): void {
    if (text.length > scratch.length) {
      const bytes = Buffer.from(text, 'latin1');
      this.writeBytes(bytes, bytes.length);
    } else this.writeBytes(scratch, scratch.write(text, 0, 'latin1'));
  }

  /** As `write`, of `bytes[0, length)`. `more`: an `end` follows at once, and one packet may do for both. */
  writeBytes(bytes: Uint8Array, length: number, more = false): void {
    if (this.destroyed || this.writableEnded) return;
    let from = 0;
    if (this.#waitingBytes === 0 && !this.connecting) {
      from = this.#send(bytes, length, more ? SEND_FLAGS | MSG_MORE : SEND_FLAGS);
      if (from === length || this.destroyed) return;
    }
    this.#waiting.push(Buffer.from(bytes.subarray(from, length)));
    this.#waitingBytes += length - from;
    this.#watch();
  }

  /** FIN after what waits. Where both directions are over, it closes. */
  end(): void {
    if (this.destroyed || this.writableEnded) return;
    this.writableEnded = true;
    // Later: if the peer's end comes in the same turn, closing says the same with one call less.
    this.#putOff();
  }

  destroy(error?: Error): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.#error = error ?? null;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#readiness.unwatch(this.#number);
    this.#readiness.closeDescriptor(this.#fd);
    this.#fd = -1;
    this.#putOff();
  }

  reset(): void {
    resetSocket(this);
  }

  /** Lets go of the descriptor, which is the caller's then, as it is; 'close' follows. Nothing may wait to be written. */
  detach(): number {
    const fd = this.#fd;
    this.#readiness.remove(this.#number);
    this.#fd = -1;
    this.destroyed = true;
    this.#putOff();
    return fd;
  }

  onReady(events: number): void {
    if (this.connecting && !this.#connected(events)) return;
    if ((events & EPOLLOUT) !== 0 && this.#waitingBytes > 0) this.#sendWaiting();
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) === 0) return;
    this.#readable = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP)) !== 0) this.#finArrived = true;
    this.#read();
  }

  /** What was put off. */
  run(): void {
    this.#queued = false;
    if (this.destroyed) {
      this.#sayClosed();
      return;
    }
    this.#read();
    this.#finish();
    // Only now: a connection that is over by then need not be watched.
    if (!this.destroyed && !this.connecting && !this.#paused) this.#watch();
  }

  #putOff(): void {
    if (this.#queued) return;
    this.#queued = true;
    this.#readiness.soon(this);
  }

  #watch(): void {
    if (this.#number !== UNWATCHED || this.destroyed) return;
    try {
      this.#number = this.#readiness.watch(this, WATCHED_EVENTS);
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  #connected(events: number): boolean {
    if ((events & (EPOLLERR | EPOLLHUP)) !== 0) {
      optionLength.writeUInt32LE(4);
      const answer = getsockopt(this.#fd, SOL_SOCKET, SO_ERROR, option, optionLength);
      const errno = answer < 0 ? -answer : option.readInt32LE();
      if (errno !== 0) {
        this.#fail('connect', -errno);
        return false;
      }
    }
    if ((events & EPOLLOUT) === 0) return false;
    this.connecting = false;
    this.emit('connect');
    this.#finish();
    return !this.destroyed;
  }

  #read(): void {
    while (this.#readable && !this.#paused && !this.#held && !this.destroyed && !this.connecting) {
      if (this.#look !== null) {
        this.#show(this.#look);
        continue;
      }
      const buffer = this.#buffer;
      const sink = this.#bulk ? this.#sink : null;
      const length =
        sink === null
          ? recv(this.#fd, buffer, buffer.length, MSG_DONTWAIT)
          : this.#readiness.conduit.take(this.#fd);
      if (length > 0) {
        if (!this.#took(buffer, length, sink)) return;
      } else if (length === 0) {
        this.#readable = false;
        this.readableEnded = true;
        this.emit('end');
        this.#finish();
      } else if (length === -EAGAIN) this.#readable = false;
      else if (length !== -EINTR) this.#fail('read', length);
    }
  }

  #show(look: (bytes: Buffer) => void): void {
    const length = recv(this.#fd, shared, shared.length, MSG_DONTWAIT | MSG_PEEK);
    if (length >= 0) {
      this.pause();
      look(shared.subarray(0, length));
    } else if (length === -EAGAIN) this.#readable = false;
    else if (length !== -EINTR) this.#fail('read', length);
  }

  /** False: others have their turn first. */
  #took(buffer: Buffer, length: number, sink: PlainSocket | null): boolean {
    this.bytesRead += length;
    // Less than asked for is all there is; the FIN may be behind it.
    if (sink === null && length < buffer.length && !this.#finArrived) this.#readable = false;
    const { budget, onBytes } = this;
    if (onBytes === null) {
      this.destroy();
      return false;
    }
    const large = budget !== null && length > READ_BYTES_MIN;
    const began = large ? performance.now() : 0;
    if (sink === null) {
      this.#bulk = length === buffer.length && this.#sink !== null;
      onBytes(buffer, length);
    } else {
      this.#bulk = length >= BULK_BYTES_MIN;
      sink.#passOn(length);
      this.#onPassed?.();
    }
    if (budget !== null && !budget.take(length, large ? performance.now() - began : 0, this)) {
      this.#held = true;
      return false;
    }
    if (length < buffer.length) return true;
    this.#putOff();
    return false;
  }

  /** Sends what is in the thread's conduit. */
  #passOn(length: number): void {
    const { conduit } = this.#readiness;
    const free = !this.destroyed && !this.writableEnded && !this.connecting && this.#waitingBytes === 0;
    const given = free ? conduit.give(this.#fd, length) : 0;
    if (given < 0) {
      conduit.discard();
      this.#fail('splice', given);
      return;
    }
    this.bytesWritten += given;
    if (given === length) return;
    const rest = conduit.rest(length - given);
    this.writeBytes(rest, rest.length);
  }

  /** How many bytes the kernel took. */
  #send(bytes: Uint8Array, length: number, flags = SEND_FLAGS): number {
    let sent = 0;
    while (sent < length) {
      const part = sent === 0 && length === bytes.length ? bytes : bytes.subarray(sent, length);
      const answer = send(this.#fd, part, length - sent, flags);
      if (answer >= 0) sent += answer;
      else if (answer === -EAGAIN) break;
      else if (answer !== -EINTR) {
        this.#fail('write', answer);
        break;
      }
    }
    this.bytesWritten += sent;
    return sent;
  }

  #sendWaiting(): void {
    while (this.#waitingBytes > 0) {
      const [bytes] = this.#waiting as [Buffer];
      const sent = this.#send(bytes, bytes.length);
      if (this.destroyed) return;
      this.#waitingBytes -= sent;
      if (sent < bytes.length) {
        this.#waiting[0] = bytes.subarray(sent);
        return;
      }
      this.#waiting.shift();
    }
    if (this.writableEnded) this.#finish();
    else this.emit('drain');
  }

  /** Both directions over: closes. Only ours: says so. */
  #finish(): void {
    if (!this.writableEnded || this.#waitingBytes > 0 || this.destroyed || this.connecting) return;
    if (this.readableEnded) this.destroy();
    else if (!this.#finSent) {
      this.#finSent = true;
      // It fails where the peer has reset the connection, and then reading says so.
      shutdown(this.#fd, SHUT_WR);
    }
  }

  #fail(call: string, answer: number): void {
    const code = errnoText(answer);
    this.destroy(Object.assign(new Error(`${call} ${code}`), { code, errno: answer, syscall: call }));
  }

  #sayClosed(): void {
    if (this.#closeSaid) return;
    this.#closeSaid = true;
    if (this.#error !== null) this.emit('error', this.#error);
    this.emit('close');
  }

  #address(ask: typeof getpeername): { readonly ip: string; readonly port: number } | undefined {
    addressLength.writeUInt32LE(SOCKET_ADDRESS_BYTES);
    return ask(this.#fd, address, addressLength) < 0 ? undefined : readSocketAddress(address);
  }

  /** It cannot fail in a way that matters: the options are for comfort. */
  #setOption(level: number, name: number, value: number): void {
    option.writeInt32LE(value);
    if (!this.destroyed) setsockopt(this.#fd, level, name, option, option.length);
  }
}
