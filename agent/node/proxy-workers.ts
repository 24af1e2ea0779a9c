// SPDX-License-Identifier: Apache-2.0
// The control thread's side of the proxy workers: starts them, tells each the pods, certificates and
// destinations it needs, replaces one that ends or falls silent. Opens no sockets and knows no kernel.
//
//   slot s of a pod is served by worker s mod count; a replacement gets the same slots again, and until it is there
//   another worker accepts on them beside its own: what waits in their backlogs does not wait for a thread to start

import type { Worker } from 'node:worker_threads';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { Exposition } from '#lib/metrics/exposition.ts';
import type {
  Certificate,
  Destination,
  FromWorker,
  HandedConnection,
  ListenerHandle,
  TapEvent,
  TapWish,
  ToWorker,
  WorkerPod,
  WorkerStart,
} from '../proxy/model.ts';

/**
 * A worker whose beat does not move for this long is ended and replaced. Of a thread that could run only what it was
 * given of a processor counts: where those are short it is slow, and to end it would break off all that it holds.
 */
const SILENT_MS = 2_000;
const WATCH_INTERVAL_MS = 500;
/** What more passes between two looks is this thread's own delay, as when the whole machine is paused: nobody's silence. */
const WATCH_COUNTED_MS = 2 * WATCH_INTERVAL_MS;
/** A worker needs time to start before silence counts. */
const START_GRACE_MS = 10_000;
/** CNI DEL waits this long for the workers' word that they hold nothing of the pod. */
const POD_GONE_MS = 2_000;
const RESTART_DELAY_MS = 100;
const REFUSED_LOOK_MS = 1_000;
/** A thread whose end takes longer (something native does not return) keeps what it has: only the process can end. */
const WEDGED_MS = 10_000;

export interface ThreadUsage {
  readonly usedMs: number;
  readonly runnable: boolean;
}

export type WorkerPort = Pick<Worker, 'postMessage' | 'on' | 'terminate'>;

export interface ProxyWorkersOptions {
  readonly count: number;
  readonly spawn: (start: WorkerStart) => WorkerPort;
  readonly start: Omit<
    WorkerStart,
    'workerIndex' | 'workers' | 'loads' | 'anchorsPem' | 'beats' | 'descriptors'
  >;
  readonly anchorsPem: string;
  /** Duplicates a descriptor for a worker, which closes it. */
  readonly duplicate: (fd: number) => number;
  /** What a descriptor stands for, or undefined if it is closed; and the way to close it. */
  readonly inodeOf: (fd: number) => number | undefined;
  readonly closeDuplicate: (fd: number) => void;
  /** A table of descriptors for one worker, and the sweep that closes what a dead one left open. */
  readonly descriptors: { make(): SharedArrayBuffer; sweep(table: SharedArrayBuffer): void };
  readonly discover: (
    key: string,
    target: { readonly namespace: string; readonly ip: string; readonly port: number },
    deliver: (destination: Destination) => void,
  ) => { close(): void };
  readonly metricDefined: (workerIndex: number, definition: unknown) => void;
  readonly podMetrics: (uid: string, exposition: Exposition) => Promise<string>;
  /** Writes a batch of access log lines, and says when it is done with it. */
  readonly accessLog: (pieces: readonly string[], done: () => void) => void;
  /** A pod's application refused; at most once a second for each. */
  readonly applicationRefused: (uid: string) => void;
  /** What a thread has used of the processors, and whether it would use one now; undefined: nobody knows. */
  readonly usageOf: (threadId: number) => ThreadUsage | undefined;
  /** A worker can neither serve nor be ended: the process must be left, the next agent adopts the listeners. */
  readonly wedged: (workerIndex: number) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export interface ProxyWorkers {
  /** Resolves when every worker has said that it is ready. */
  readonly ready: Promise<void>;
  /** Listeners are known by their objects: those that an earlier call named are not handed out again. */
  setPod(pod: WorkerPod, listeners: readonly ListenerHandle[]): void;
  removePod(uid: string): Promise<void>;
  /** Connections of the pod in all workers; Infinity if one does not answer. */
  connectionsOf(uid: string, dismiss: boolean): Promise<number>;
  setCertificate(certificate: Certificate): void;
  /**
   * Tells of the pod's exchanges, from each worker so many requests as the wish says; until it is closed. `worker`: ids
   * of exchanges are those of one worker.
   */
  tap(uid: string, wish: TapWish, heard: (worker: number, event: TapEvent) => void): { close(): void };
  /** Nobody needs it any more, the key least of all. */
  dropCertificate(identity: string): void;
  setAnchors(pem: string): void;
  /** Another agent accepts on the same listeners from now on; connections that are open stay. */
  stopAccepting(): void;
  /** Takes back `stopAccepting` and `drain`. */
  resume(): void;
  /**
   * Has workers finish what is under way, and resolves when they have or the time is over. They go on serving: nobody
   * may have taken over the pods' listeners, and a connection that waits in a backlog hangs.
   */
  drain(graceMs: number): Promise<void>;
  close(): Promise<void>;
  /** Workers replaced so far, by reason. */
  readonly replaced: { exited: number; silent: number };
  /** Connections that last (agent/proxy/accept/spread.ts), of each worker. */
  readonly longConnections: readonly number[];
  /** Workers that have started and not ended. */
  readonly serving: number;
}

interface PodState {
  refusedAtMs: number;
  pod: WorkerPod;
  listeners: readonly ListenerHandle[];
}

/** A duplicate on its way to a worker; the number may be somebody else's later, the inode may not. */
interface Handed {
  readonly uid: string;
  readonly fd: number;
  readonly inode: number | undefined;
}

interface WorkerState {
  readonly index: number;
  port: WorkerPort;
  beats: Int32Array;
  descriptors: SharedArrayBuffer;
  lastBeat: number;
  /** Of the processors, by the last look. */
  usedMs: number;
  /** Since its last beat, as far as this thread was there to see one. */
  silentMs: number;
  readonly wants: Set<string>;
  handed: Handed[];
  started: boolean;
  /** Since it was silent for too long and had to end. */
  condemnedMs: number | undefined;
  ended: boolean;
}

interface Tap {
  readonly uid: string;
  readonly wish: TapWish;
  readonly heard: (worker: number, event: TapEvent) => void;
}

interface Subscription {
  readonly handle: { close(): void };
  last: Destination | undefined;
  readonly workers: Set<number>;
}

export function createProxyWorkers(options: ProxyWorkersOptions): ProxyWorkers {
  const { count, clock, log } = options;
  const pods = new Map<string, PodState>();
  const certificates = new Map<string, Certificate>();
  const subscriptions = new Map<string, Subscription>();
  const waitingForGone = new Map<string, () => void>();
  /** By ticket and worker: how many connections a pod has there. */
  const waitingForCount = new Map<string, (open: number) => void>();
  const workers: WorkerState[] = [];
  const replaced = { exited: 0, silent: 0 };
  /** Owner of slots -> the worker that accepts on them while the owner cannot. */
  const helpers = new Map<number, WorkerState>();
  const drained = new Set<number>();
  const whenDrained: (() => void)[] = [];
  let anchorsPem = options.anchorsPem;
  /** Long connections of each worker. */
  const loads = new SharedArrayBuffer(4 * count);
  const longOnes = new Int32Array(loads);
  const taps = new Map<number, Tap>();
  let ticket = 0;
  let drainGraceMs: number | undefined;
  let accepting = true;
  let closing = false;
  const readyWorkers = new Set<number>();
  let allReady: () => void = () => undefined;
  const ready = new Promise<void>((resolve) => {
    allReady = resolve;
  });

  const send = (worker: WorkerState, message: ToWorker): void => {
    if (!worker.ended) worker.port.postMessage(message);
  };
  const broadcast = (message: ToWorker): void => {
    for (const worker of workers) send(worker, message);
  };

  const servesNow = ({ started, condemnedMs, ended }: WorkerState): boolean =>
    started && condemnedMs === undefined && !ended;
  const serves = (worker: WorkerState, owner: number): boolean =>
    owner === worker.index || helpers.get(owner) === worker;
  const hand = (worker: WorkerState, uid: string, fd: number): void => {
    // Whatever had that number before is closed.
    worker.handed = worker.handed.filter((earlier) => earlier.fd !== fd);
    worker.handed.push({ uid, fd, inode: options.inodeOf(fd) });
  };
  const sendPod = (worker: WorkerState, state: PodState, all: readonly ListenerHandle[]): void => {
    // Its successor's start sends everything; a duplicate would be nobody's.
    if (worker.ended) return;
    const listeners = accepting
      ? all
          .filter((listener) => serves(worker, listener.slot % count))
          .map((listener) => ({ ...listener, fd: options.duplicate(listener.fd) }))
      : [];
    for (const { fd } of listeners) hand(worker, state.pod.uid, fd);
    send(worker, { type: 'pod', pod: state.pod, listeners });
  };

  /** Somebody accepts in the place of the owner until its successor has started. */
  const lend = (owner: number): void => {
    helpers.delete(owner);
    const helper = workers.find(servesNow);
    if (helper === undefined) return;
    helpers.set(owner, helper);
    for (const state of pods.values()) {
      sendPod(
        helper,
        state,
        state.listeners.filter(({ slot }) => slot % count === owner),
      );
    }
  };
  /** Others serve what this one did. */
  const replaceIn = (worker: WorkerState): void => {
    for (const [owner, helper] of helpers) if (helper === worker) lend(owner);
    if (!helpers.has(worker.index)) lend(worker.index);
  };
  const takeBack = (owner: number): void => {
    const helper = helpers.get(owner);
    helpers.delete(owner);
    if (helper !== undefined) send(helper, { type: 'slots-back', owner });
  };

  const release = (key: string, workerIndex: number): void => {
    const subscription = subscriptions.get(key);
    if (subscription === undefined) return;
    subscription.workers.delete(workerIndex);
    if (subscription.workers.size > 0) return;
    subscriptions.delete(key);
    subscription.handle.close();
  };

  const want = (worker: WorkerState, message: Extract<FromWorker, { type: 'discover' }>): void => {
    worker.wants.add(message.key);
    const known = subscriptions.get(message.key);
    if (known !== undefined) {
      known.workers.add(worker.index);
      if (known.last !== undefined) {
        send(worker, { type: 'destination', key: message.key, destination: known.last });
      }
      return;
    }
    const { key, namespace, ip, port } = message;
    const subscription: Subscription = {
      workers: new Set([worker.index]),
      last: undefined,
      handle: options.discover(key, { namespace, ip, port }, (destination) => {
        subscription.last = destination;
        for (const index of subscription.workers) {
          const target = workers[index];
          if (target !== undefined) send(target, { type: 'destination', key, destination });
        }
      }),
    };
    subscriptions.set(key, subscription);
  };

  /** A connection from one worker to another, or back if that one cannot take it. */
  const passOn = (from: WorkerState, connection: HandedConnection): void => {
    const wanted = workers[connection.to];
    const to = wanted !== undefined && servesNow(wanted) ? wanted : from;
    if (to !== wanted) {
      Atomics.sub(longOnes, connection.to, 1);
      Atomics.add(longOnes, to.index, 1);
    }
    const { uid, fd } = connection;
    if (to.ended) {
      Atomics.sub(longOnes, to.index, 1);
      options.closeDuplicate(fd);
      return;
    }
    hand(to, uid, fd);
    send(to, { type: 'connection', connection });
  };

  const onMessage = (worker: WorkerState, message: FromWorker): void => {
    switch (message.type) {
      case 'ready':
        worker.started = true;
        takeBack(worker.index);
        readyWorkers.add(worker.index);
        if (readyWorkers.size === count) allReady();
        break;
      case 'discover':
        want(worker, message);
        break;
      case 'forget':
        worker.wants.delete(message.key);
        release(message.key, worker.index);
        break;
      case 'pod-gone':
        if (!pods.has(message.uid)) worker.handed = worker.handed.filter(({ uid }) => uid !== message.uid);
        waitingForGone.get(`${message.ticket}/${worker.index}`)?.();
        break;
      case 'pod-connections':
        waitingForCount.get(`${message.ticket}/${worker.index}`)?.(message.open);
        break;
      case 'metric':
        options.metricDefined(worker.index, message.definition);
        break;
      case 'application-refused': {
        const state = pods.get(message.uid);
        if (state === undefined || clock.nowMs() - state.refusedAtMs < REFUSED_LOOK_MS) break;
        state.refusedAtMs = clock.nowMs();
        options.applicationRefused(message.uid);
        break;
      }
      case 'pod-metrics-wanted':
        options.podMetrics(message.uid, message.exposition).then(
          (text) => send(worker, { type: 'pod-metrics', ticket: message.ticket, text }),
          (error: unknown) => {
            log.warn({ uid: message.uid, error: errorMessage(error) }, "a pod's metrics cannot be rendered");
            send(worker, { type: 'pod-metrics', ticket: message.ticket, text: '' });
          },
        );
        break;
      case 'access-log':
        options.accessLog(message.pieces, () => send(worker, { type: 'access-log-written' }));
        break;
      case 'connection':
        passOn(worker, message.connection);
        break;
      case 'connection-taken':
        worker.handed = worker.handed.filter(({ fd }) => fd !== message.fd);
        break;
      case 'tap-event':
        taps.get(message.ticket)?.heard(worker.index, message.event);
        break;
      case 'drained':
        drained.add(worker.index);
        if (drained.size === count) for (const done of whenDrained.splice(0)) done();
        break;
    }
  };

  const start = (index: number): void => {
    const beats = new SharedArrayBuffer(8);
    const descriptors = options.descriptors.make();
    const worker: WorkerState = {
      index,
      beats: new Int32Array(beats),
      descriptors,
      lastBeat: 0,
      usedMs: 0,
      silentMs: -START_GRACE_MS,
      wants: new Set(),
      handed: [],
      started: false,
      condemnedMs: undefined,
      ended: false,
      port: options.spawn({
        ...options.start,
        workerIndex: index,
        workers: count,
        ...(count === 1 ? {} : { loads }),
        anchorsPem,
        beats,
        descriptors,
      }),
    };
    workers[index] = worker;
    worker.port.on('message', (message: FromWorker) => onMessage(worker, message));
    worker.port.on('error', (error: unknown) => {
      log.error(
        { worker: index, error: error instanceof Error ? error.stack : String(error) },
        'a proxy worker failed',
      );
    });
    worker.port.on('exit', () => onExit(worker));
    for (const certificate of certificates.values()) send(worker, { type: 'certificate', certificate });
    for (const state of pods.values()) sendPod(worker, state, state.listeners);
    for (const [id, { uid, wish }] of taps) send(worker, { type: 'tap', ticket: id, uid, wish });
    if (drainGraceMs !== undefined) send(worker, { type: 'drain', graceMs: drainGraceMs });
  };

  /** How much of the time that has passed the worker could have used. */
  const givenMs = (worker: WorkerState, passedMs: number): number => {
    const usage = options.usageOf(Atomics.load(worker.beats, 1));
    if (usage === undefined) return passedMs;
    const ms = usage.usedMs - worker.usedMs;
    worker.usedMs = usage.usedMs;
    return usage.runnable ? Math.min(ms, passedMs) : passedMs;
  };

  const onExit = (worker: WorkerState): void => {
    worker.ended = true;
    Atomics.store(longOnes, worker.index, 0);
    for (const key of worker.wants) release(key, worker.index);
    options.descriptors.sweep(worker.descriptors);
    // What it had not taken yet stays open otherwise, and a pod's namespace with it.
    const elsewhere = new Set(
      workers.filter(({ ended }) => !ended).flatMap(({ handed }) => handed.map(({ fd }) => fd)),
    );
    for (const { fd, inode } of worker.handed.splice(0)) {
      // The same listener may have the same number again, in another worker's hand.
      if (elsewhere.has(fd)) continue;
      if (inode !== undefined && options.inodeOf(fd) === inode) options.closeDuplicate(fd);
    }
    for (const [id, count] of waitingForCount) if (id.endsWith(`/${worker.index}`)) count(0);
    for (const [id, gone] of waitingForGone) if (id.endsWith(`/${worker.index}`)) gone();
    if (drainGraceMs !== undefined) {
      drained.add(worker.index);
      if (drained.size === count) for (const done of whenDrained.splice(0)) done();
    }
    if (closing) return;
    replaced.exited++;
    log.error({ worker: worker.index }, 'a proxy worker ended; a successor takes over its listeners');
    replaceIn(worker);
    clock.after(RESTART_DELAY_MS, () => {
      if (!closing) start(worker.index);
    });
  };

  let watch: Timer | undefined;
  let lookedAtMs = clock.nowMs();
  const watchBeats = (): void => {
    const passedMs = Math.min(clock.nowMs() - lookedAtMs, WATCH_COUNTED_MS);
    lookedAtMs = clock.nowMs();
    for (const worker of workers) {
      if (worker.ended) continue;
      const ms = givenMs(worker, passedMs);
      if (worker.condemnedMs !== undefined) worker.condemnedMs += ms;
      const beat = Atomics.load(worker.beats, 0);
      worker.silentMs += ms;
      if (beat !== worker.lastBeat) {
        worker.lastBeat = beat;
        worker.silentMs = 0;
      } else if (worker.silentMs > SILENT_MS) {
        worker.silentMs = 0;
        if (worker.condemnedMs !== undefined) {
          if (worker.condemnedMs > WEDGED_MS) options.wedged(worker.index);
          continue;
        }
        worker.condemnedMs = 0;
        replaced.silent++;
        log.error({ worker: worker.index, silentMs: SILENT_MS }, 'a proxy worker is silent; it is ended');
        replaceIn(worker);
        worker.port.terminate().catch((error: unknown) => {
          log.error({ worker: worker.index, error: errorMessage(error) }, 'a silent worker cannot be ended');
        });
      }
    }
    watch = clock.after(WATCH_INTERVAL_MS, watchBeats);
  };

  for (let index = 0; index < count; index++) start(index);
  watchBeats();

  return {
    ready,
    replaced,
    get longConnections() {
      return [...longOnes];
    },
    get serving() {
      return workers.filter(servesNow).length;
    },
    setPod(pod, listeners) {
      const known = pods.get(pod.uid)?.listeners ?? [];
      const state = {
        pod,
        listeners,
        refusedAtMs: pods.get(pod.uid)?.refusedAtMs ?? Number.NEGATIVE_INFINITY,
      };
      pods.set(pod.uid, state);
      const fresh = listeners.filter((listener) => !known.includes(listener));
      for (const worker of workers) sendPod(worker, state, fresh);
    },
    async removePod(uid) {
      if (!pods.delete(uid)) return;
      const id = ++ticket;
      const words = workers
        .filter((worker) => !worker.ended)
        .map(
          (worker) =>
            new Promise<void>((resolve) => {
              const key = `${id}/${worker.index}`;
              const timer = clock.after(POD_GONE_MS, () => {
                log.warn({ uid, worker: worker.index }, 'a worker has not said that it let go of a pod');
                done();
              });
              const done = (): void => {
                timer.cancel();
                waitingForGone.delete(key);
                resolve();
              };
              waitingForGone.set(key, done);
            }),
        );
      broadcast({ type: 'pod-removed', uid, ticket: id });
      await Promise.all(words);
    },
    async connectionsOf(uid, dismiss) {
      const id = ++ticket;
      const asked = workers.filter((worker) => !worker.ended);
      const counts = asked.map(
        (worker) =>
          new Promise<number>((resolve) => {
            const key = `${id}/${worker.index}`;
            const done = (open: number): void => {
              timer.cancel();
              waitingForCount.delete(key);
              resolve(open);
            };
            const timer = clock.after(POD_GONE_MS, () => done(Number.POSITIVE_INFINITY));
            waitingForCount.set(key, done);
          }),
      );
      broadcast({ type: 'pod-connections', uid, ticket: id, dismiss });
      return (await Promise.all(counts)).reduce((sum, open) => sum + open, 0);
    },
    setCertificate(certificate) {
      certificates.set(certificate.identity, certificate);
      broadcast({ type: 'certificate', certificate });
    },
    tap(uid, wish, heard) {
      const id = ++ticket;
      taps.set(id, { uid, wish, heard });
      broadcast({ type: 'tap', ticket: id, uid, wish });
      return {
        close: () => {
          if (taps.delete(id)) broadcast({ type: 'tap-end', ticket: id, uid });
        },
      };
    },
    dropCertificate(identity) {
      if (certificates.delete(identity)) broadcast({ type: 'certificate-dropped', identity });
    },
    setAnchors(pem) {
      anchorsPem = pem;
      broadcast({ type: 'anchors', pem });
    },
    stopAccepting() {
      accepting = false;
      broadcast({ type: 'stop-accepting' });
    },
    resume() {
      drainGraceMs = undefined;
      drained.clear();
      broadcast({ type: 'resume' });
      if (accepting) return;
      accepting = true;
      for (const state of pods.values())
        for (const worker of workers) sendPod(worker, state, state.listeners);
    },
    async drain(graceMs) {
      drainGraceMs = graceMs;
      drained.clear();
      for (const worker of workers) if (worker.ended) drained.add(worker.index);
      const all = new Promise<void>((resolve) => {
        whenDrained.push(resolve);
      });
      broadcast({ type: 'drain', graceMs });
      if (drained.size < count) await all;
    },
    async close() {
      closing = true;
      watch?.cancel();
      for (const subscription of subscriptions.values()) subscription.handle.close();
      subscriptions.clear();
      await Promise.all(workers.map(async (worker) => worker.port.terminate()));
    },
  };
}
