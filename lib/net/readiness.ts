// SPDX-License-Identifier: Apache-2.0
// Descriptors that are watched beside libuv: an epoll instance of a thread's own, so that a turn of the event loop learns
// with one call which of them are ready. For sockets that live too short for what Node.js builds around each
// (plain-socket.ts) and the listeners that accept them.
//
//   one is ready ─▶ libuv's instance tells of the bell ─▶ epoll_wait ─▶ onReady of each ─▶ what they put off (`soon`)
//
// libuv has to watch that instance. Addons can ask it to (uv_poll), but their callback brings the whole process down when
// its thread is being ended (napi_throw is fatal then). So the bell is a socket of Node.js on which nothing ever arrives,
// and the instance is added to libuv's own under the bell's number: libuv finds it ready, reads nothing from it, and says
// so to our `onread`. This is no public interface: it is used in this file only, and a thread where it does not work does
// not start.

import { Socket } from 'node:net';
import { arch } from 'node:process';
import { MeshError } from '#lib/core/errors.ts';
import { Conduit } from './conduit.ts';
import { descriptorOf } from './descriptor.ts';
import { bindInt, checked, close, EINTR, stableBytes } from './native.ts';
import { openPair } from './socket-pair.ts';

export const EPOLLIN = 0x001;
export const EPOLLOUT = 0x004;
export const EPOLLERR = 0x008;
export const EPOLLHUP = 0x010;
export const EPOLLRDHUP = 0x2000;
/** Told once per change, not as long as it holds. */
export const EPOLLET = 0x80000000;

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;

/** struct epoll_event { u32 events; u64 data }, packed on x86-64 only. */
const DATA_AT = arch === 'x64' ? 4 : 8;
const EVENT_BYTES = DATA_AT + 8;
const EVENTS_MAX = 512;
/** How often one turn goes through what was put off meanwhile. */
const PASSES_MAX = 8;
/** libuv begins to watch the bell in its next turn. */
const TURNS_MAX = 100;
/** Its instance is among the first descriptors that its thread opened. */
const INSTANCES_MAX = 65_536;
/** Numbers of watched descriptors stay small integers. */
const NUMBERS = 0x3fffffff;

const epollCreate = bindInt<[flags: number]>('int epoll_create1(int flags)');
const epollCtl = bindInt<[epoll: number, operation: number, fd: number, event: Uint8Array]>(
  'int epoll_ctl(int epoll, int operation, int fd, const void *event)',
);
const epollWait = bindInt<[epoll: number, events: Uint8Array, count: number, timeoutMs: number]>(
  'int epoll_wait(int epoll, void *events, int count, int timeout)',
);

interface SocketInternals {
  readonly _handle: { onread: () => void };
}

export interface Watched {
  readonly fd: number;
  /** `events`: EPOLL… bits. */
  onReady(events: number): void;
}

export interface PutOff {
  run(): void;
}

export interface ReadinessOptions {
  /** Notes a descriptor for the case that the thread dies; throws MESH_LIMIT when there is no room. */
  readonly keep: (fd: number) => void;
  /** Forgets and closes it. */
  readonly close: (fd: number) => void;
}

export class Readiness {
  readonly #options: ReadinessOptions;
  readonly #epoll: number;
  readonly #bell: Socket;
  readonly #farEnd: number;
  readonly #watched = new Map<number, Watched>();
  readonly #event = stableBytes(EVENT_BYTES);
  readonly #events = stableBytes(EVENTS_MAX * EVENT_BYTES);
  #number = 0;
  #soon: PutOff[] = [];
  #spare: PutOff[] = [];
  #scheduled = false;
  #running = false;
  #closed = false;
  #conduit: Conduit | null = null;
  readonly #run = (): void => this.#turn();

  /** Throws MeshError. */
  constructor(options: ReadinessOptions) {
    this.#options = options;
    this.#epoll = checked('epoll_create1', epollCreate(EPOLL_CLOEXEC), 'watching sockets');
    options.keep(this.#epoll);
    const [near, far] = openPair();
    options.keep(far);
    this.#farEnd = far;
    this.#bell = new Socket({
      fd: near,
      // Only with a buffer of ours libuv's empty reads are told.
      onread: { buffer: stableBytes(64), callback: () => true },
    });
    (this.#bell as unknown as SocketInternals)._handle.onread = () => this.#turn();
    this.#bell.resume();
    this.#bell.unref();
    this.#join(TURNS_MAX);
  }

  /** Adds our instance to libuv's, as soon as that watches the bell. */
  #join(turns: number): void {
    if (this.#closed) return;
    const bell = descriptorOf(this.#bell) ?? -1;
    const event = this.#event;
    event.writeUInt32LE(EPOLLIN, 0);
    event.writeUInt32LE(bell, DATA_AT);
    for (let fd = 0; fd < INSTANCES_MAX; fd++) {
      // As libuv has said already; every other descriptor refuses.
      if (epollCtl(fd, EPOLL_CTL_MOD, bell, event) < 0) continue;
      checked('epoll_ctl', epollCtl(fd, EPOLL_CTL_ADD, this.#epoll, event), 'joining the event loop');
      return;
    }
    if (turns === 0)
      throw new MeshError('MESH_HOST_UNFIT', 'the event loop of this Node.js cannot be joined');
    setImmediate(() => this.#join(turns - 1));
  }

  /** Watches for the EPOLL… bits until `unwatch`. Returns the number for it. Throws MeshError. */
  watch(watched: Watched, events: number): number {
    let number = this.#number;
    do number = (number + 1) & NUMBERS;
    while (this.#watched.has(number));
    this.#number = number;
    const event = this.#event;
    event.writeUInt32LE(events >>> 0, 0);
    event.writeUInt32LE(number, DATA_AT);
    checked('epoll_ctl', epollCtl(this.#epoll, EPOLL_CTL_ADD, watched.fd, event), 'watching a socket');
    this.#watched.set(number, watched);
    return number;
  }

  /** To be called before the descriptor is closed, which ends the kernel's part. */
  unwatch(number: number): void {
    this.#watched.delete(number);
  }

  /** As `unwatch`, for a descriptor of which there are duplicates. */
  remove(number: number): void {
    const watched = this.#watched.get(number);
    if (watched !== undefined) epollCtl(this.#epoll, EPOLL_CTL_DEL, watched.fd, this.#event);
    this.#watched.delete(number);
  }

  /** Runs it in this turn, after what is ready, or at the end of the next one. */
  soon(task: PutOff): void {
    this.#soon.push(task);
    if (!this.#running) this.#schedule();
  }

  /** Whether there is a conduit; without room for its descriptors there may be one later. */
  get canPass(): boolean {
    try {
      return this.conduit !== null;
    } catch {
      return false;
    }
  }

  /** Of this thread. Throws MeshError. */
  get conduit(): Conduit {
    return (this.#conduit ??= new Conduit(this));
  }

  keep(fd: number): void {
    this.#options.keep(fd);
  }

  closeDescriptor(fd: number): void {
    this.#options.close(fd);
  }

  /** What is watched then is told nothing more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // First the instance, which would ring for a bell that is gone.
    this.#options.close(this.#epoll);
    this.#bell.destroy();
    this.#options.close(this.#farEnd);
    this.#watched.clear();
    for (const fd of this.#conduit?.ends ?? []) this.#options.close(fd);
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#run);
  }

  #turn(): void {
    this.#scheduled = false;
    this.#running = true;
    try {
      if (!this.#closed) this.#tellReady();
      for (let pass = 0; pass < PASSES_MAX && this.#soon.length > 0; pass++) this.#runSoon();
    } finally {
      this.#running = false;
    }
    if (this.#soon.length > 0) this.#schedule();
  }

  #tellReady(): void {
    const events = this.#events;
    const count = epollWait(this.#epoll, events, EVENTS_MAX, 0);
    if (count < 0 && count !== -EINTR) checked('epoll_wait', count, 'watching sockets');
    for (let index = 0; index < count; index++) {
      const at = index * EVENT_BYTES;
      // Gone: what an earlier one of this turn has closed.
      this.#watched.get(events.readUInt32LE(at + DATA_AT))?.onReady(events.readUInt32LE(at));
    }
  }

  #runSoon(): void {
    const tasks = this.#soon;
    this.#soon = this.#spare;
    for (let index = 0; index < tasks.length; index++) (tasks[index] as PutOff).run();
    tasks.length = 0;
    this.#spare = tasks;
  }
}

/** For tests and programs without a table of descriptors. */
export const plainReadiness = (): Readiness => new Readiness({ keep: () => undefined, close });
