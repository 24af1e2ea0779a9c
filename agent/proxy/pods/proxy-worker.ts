// SPDX-License-Identifier: Apache-2.0
// A proxy worker: takes the control thread's messages, keeps the pods and their listeners, hands accepted connections
// to the inbound and outbound side. Runs in a thread (agent/proxy/worker.ts) or, in tests, in process.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { assertNever, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { joinLabels } from '#lib/metrics/model.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import { FairStarts } from '#lib/net/fair-starts.ts';
import { PlainListener } from '#lib/net/plain-listener.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import { Readiness } from '#lib/net/readiness.ts';
import { setAcceptedOptions } from '#lib/net/sockets.ts';
import { AccessLog } from '../access-log/lines.ts';
import { acceptInbound, joinInbound } from '../accept/inbound.ts';
import type { WorkerKernel } from '../accept/kernel.ts';
import { limitLog } from '../accept/limited-log.ts';
import { acceptOutbound } from '../accept/outbound.ts';
import { type Arrived, arrivedConnection, type WorkerLoads } from '../accept/spread.ts';
import { createHttpServer } from '../exchange/server.ts';
import { proxyFamilies } from '../metrics/families.ts';
import { TransportMetrics } from '../metrics/transport-metrics.ts';
import type {
  FromWorker,
  HandedConnection,
  ListenerHandle,
  SameNode,
  ToWorker,
  WorkerPod,
} from '../model.ts';
import { Destinations } from '../route/destinations.ts';
import type { TapEvent } from '../tap/events.ts';
import { TlsContexts } from '../tls/contexts.ts';
import { MeshTlsServer } from '../tls/mesh-server.ts';
import type { WorkerContext } from './context.ts';
import { KEEPALIVE_MS, LateKeepAlive } from './late-keep-alive.ts';
import { PodAdmin } from './pod-admin.ts';
import { PodState } from './pod-state.ts';
import { SpareSockets } from './spare-sockets.ts';

const SAMPLE_MS = 1_000;
const REFUSED_TELL_MS = 1_000;
const METRIC_SWEEP_MS = 60_000;
const DRAIN_CHECK_MS = 100;
/** Of a draining worker, HTTP connections without a request for this long are closed. */
const IDLE_CLOSE_MS = 5_000;
const DEFAULT_FAILFAST_MS = 3_000;
const DEFAULT_DISCOVERY_TIMEOUT_MS = 10_000;

export interface ProxyWorkerOptions {
  /** Unique among all lives of all workers: names the metric cells. */
  readonly id: string;
  /** How many workers the node has. */
  readonly workers?: number;
  readonly anchorsPem: string;
  readonly sameNode: SameNode;
  readonly permitKey: Buffer;
  readonly controlPlaneNamespace?: string;
  readonly failfastMs?: number;
  /** Of one pod. */
  readonly connectionsMax?: number;
  readonly descriptorsMax?: number;
  readonly discoveryTimeoutMs?: number;
  /** Absent: there is one worker, or it keeps what it accepts. */
  readonly loads?: WorkerLoads;
  readonly kernel: WorkerKernel;
  readonly post: (message: FromWorker) => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface ProxyWorker {
  handle(message: ToWorker): void;
  /** Connections of all pods, both sides. */
  readonly connections: number;
  /** Closes everything, for tests. */
  close(): Promise<void>;
}

export function createProxyWorker(options: ProxyWorkerOptions): ProxyWorker {
  return new Worker(options);
}

class Worker implements ProxyWorker {
  readonly #options: ProxyWorkerOptions;
  readonly #context: WorkerContext;
  readonly #pods = new Map<string, PodState>();
  readonly #byIndex = new Map<number, PodState>();
  readonly #admin: PodAdmin;
  readonly #sampling: Timer[] = [];
  /** When the control thread was last told that a pod's application refused. */
  readonly #refusedAtMs = new Map<string, number>();
  #tapIds = 0;
  #draining: Timer | null = null;
  #closed = false;

  constructor(options: ProxyWorkerOptions) {
    this.#options = options;
    const { kernel, clock, random, post } = options;
    const log = limitLog(options.log, clock);
    const store = new MetricStore({
      id: options.id,
      families: proxyFamilies,
      send: (definition) => post({ type: 'metric', definition }),
      clock,
    });
    const contexts = new TlsContexts(options.anchorsPem);
    this.#admin = new PodAdmin(post, clock, (pod) => contexts.has(pod.pod.identity));
    this.#context = {
      kernel,
      readiness: new Readiness({
        keep: (fd) => kernel.keep(fd),
        close: (fd) => kernel.closeDescriptor(fd),
      }),
      clock,
      random,
      log,
      store,
      transports: new TransportMetrics(store),
      keepAlive: new LateKeepAlive(),
      contexts,
      meshServer: new MeshTlsServer((identity) => contexts.contextOf(identity)),
      handshakes: new FairStarts(),
      http: createHttpServer({ clock, random, log }),
      accessLog: new AccessLog({ send: (pieces) => post({ type: 'access-log', pieces }), clock }),
      loads: options.loads ?? null,
      handOver: (connection) => post({ type: 'connection', connection }),
      nextTapId: () => ++this.#tapIds,
      destinations: new Destinations(post, clock, options.workers ?? 1),
      sameNode: options.sameNode,
      permitKey: options.permitKey,
      failfastMs: options.failfastMs ?? DEFAULT_FAILFAST_MS,
      descriptorsMax: options.descriptorsMax ?? Number.POSITIVE_INFINITY,
      discoveryTimeoutMs: options.discoveryTimeoutMs ?? DEFAULT_DISCOVERY_TIMEOUT_MS,
      applicationRefused: (pod) => this.#applicationRefused(pod),
      podByIndex: (index) => this.#byIndex.get(index),
      podByUid: (uid) => this.#pods.get(uid),
      joinInbound: (pod, plain, local) => joinInbound(this.#context, pod, plain, local),
      servePodAdmin: (pod, socket, visit) => this.#admin.serve(pod, socket, visit),
    };
    this.#every(SAMPLE_MS, () => {
      this.#context.transports.sample();
      this.#context.keepAlive.sweep();
      for (const pod of this.#pods.values()) pod.spares.sweep();
    });
    this.#every(METRIC_SWEEP_MS, () => store.sweep());
  }

  get connections(): number {
    let count = 0;
    for (const pod of this.#pods.values()) count += pod.sockets.size;
    return count;
  }

  handle(message: ToWorker): void {
    switch (message.type) {
      case 'pod':
        this.#setPod(message.pod, message.listeners);
        break;
      case 'pod-removed':
        this.#removePod(message.uid, () =>
          this.#options.post({ type: 'pod-gone', uid: message.uid, ticket: message.ticket }),
        );
        break;
      case 'certificate':
        this.#context.contexts.setCertificate(message.certificate);
        break;
      case 'certificate-dropped':
        this.#context.contexts.dropCertificate(message.identity);
        break;
      case 'anchors':
        this.#context.contexts.setAnchors(message.pem);
        break;
      case 'destination':
        this.#context.destinations.set(message.key, message.destination);
        break;
      case 'stop-accepting':
        for (const pod of this.#pods.values()) pod.stopAccepting();
        break;
      case 'slots-back': {
        const workers = this.#options.workers ?? 1;
        const lent = ({ slot }: ListenerHandle): boolean => slot % workers === message.owner;
        for (const pod of this.#pods.values()) pod.stopAccepting(lent);
        break;
      }
      case 'drain':
        this.#drain(message.graceMs);
        break;
      case 'resume':
        this.#resume();
        break;
      case 'pod-connections': {
        const pod = this.#pods.get(message.uid);
        if (pod !== undefined && message.dismiss) this.#context.http.dismiss(pod);
        const open = pod?.sockets.size ?? 0;
        this.#options.post({ type: 'pod-connections', ticket: message.ticket, open });
        break;
      }
      case 'pod-metrics':
        this.#admin.onMetrics(message.ticket, message.text);
        break;
      case 'connection':
        this.#take(message.connection);
        break;
      case 'tap': {
        const { ticket, uid, wish } = message;
        const heard = (event: TapEvent): void => this.#options.post({ type: 'tap-event', ticket, event });
        this.#pods.get(uid)?.taps.add(ticket, wish, heard);
        break;
      }
      case 'tap-end':
        this.#pods.get(message.uid)?.taps.remove(message.ticket);
        break;
      case 'access-log-written':
        this.#context.accessLog.written();
        break;
      default:
        assertNever(message);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const timer of this.#sampling) timer.cancel();
    this.#draining?.cancel();
    await Promise.all(
      [...this.#pods.keys()].map((uid) => new Promise<void>((resolve) => this.#removePod(uid, resolve))),
    );
    this.#context.readiness.close();
  }

  #take(connection: HandedConnection): void {
    const { fd, uid, direction } = connection;
    const { loads, kernel } = this.#context;
    this.#options.post({ type: 'connection-taken', fd });
    const pod = this.#pods.get(uid);
    if (pod === undefined || loads === null) {
      loads?.ended();
      kernel.closeDescriptor(fd);
      return;
    }
    let arrived: Arrived;
    try {
      arrived = arrivedConnection(this.#context, connection, loads);
    } catch (error) {
      loads.ended();
      kernel.closeDescriptor(fd);
      this.#context.log.error(
        { pod: pod.name, error: errorMessage(error) },
        'a connection of another worker is closed',
      );
      return;
    }
    const accept = direction === 'inbound' ? acceptInbound : acceptOutbound;
    accept(this.#context, pod, arrived.plain, arrived);
  }

  #applicationRefused({ uid }: PodState): void {
    const now = this.#options.clock.nowMs();
    if (now - (this.#refusedAtMs.get(uid) ?? Number.NEGATIVE_INFINITY) < REFUSED_TELL_MS) return;
    this.#refusedAtMs.set(uid, now);
    this.#options.post({ type: 'application-refused', uid });
  }

  #every(intervalMs: number, run: () => void): void {
    const at = this.#sampling.length;
    const again = (): void => {
      if (this.#closed) return;
      run();
      this.#sampling[at] = this.#context.clock.after(intervalMs, again);
    };
    this.#sampling.push(this.#context.clock.after(intervalMs, again));
  }

  #setPod(pod: WorkerPod, listeners: readonly ListenerHandle[]): void {
    let state = this.#pods.get(pod.uid);
    if (state === undefined) {
      const { kernel, clock, store } = this.#context;
      const spares = new SpareSockets(kernel, clock, pod.netnsFd);
      state = new PodState(
        pod,
        spares,
        this.#options.controlPlaneNamespace ?? 'nodemesh',
        this.#options.connectionsMax,
      );
      this.#pods.set(pod.uid, state);
      this.#byIndex.set(pod.podIndex, state);
      // Held by the pod until its series are removed with it.
      store
        .cell('process_start_time_seconds', joinLabels('', state.labels), pod.uid)
        .set(pod.startedAtSeconds);
      const held = store.cell('nodemesh_reads_held_total', joinLabels('', state.labels), pod.uid);
      state.onHeld = () => held.add(1);
      const late = store.cell('nodemesh_handshakes_held_total', joinLabels('', state.labels), pod.uid);
      state.handshakes.onHeld = () => late.add(1);
    } else state.update(pod);
    for (const listener of listeners) this.#listen(state, listener);
  }

  #listen(pod: PodState, handle: ListenerHandle): void {
    const { kernel, readiness, clock, log } = this.#context;
    const { direction, fd, family, slot } = handle;
    // A dead one whose place this takes would keep the thread busy with its end.
    pod.dropListener(handle);
    const failed = (error: Error): void =>
      log.error(
        { pod: pod.name, direction, family, slot, error: errorMessage(error) },
        'a listener of a pod failed',
      );
    try {
      setAcceptedOptions(fd, KEEPALIVE_MS / 1000);
    } catch (error) {
      log.warn(
        { pod: pod.name, direction, error: errorMessage(error) },
        'connections of a listener have no keep-alive',
      );
    }
    const serve = direction === 'inbound' ? acceptInbound : acceptOutbound;
    const accept = (accepted: number): void =>
      serve(this.#context, pod, new PlainSocket(readiness, accepted));
    try {
      pod.listeners.set(new PlainListener(fd, { readiness, clock, accept, failed }), handle);
    } catch (error) {
      kernel.closeDescriptor(fd);
      failed(error as Error);
    }
  }

  #removePod(uid: string, done: () => void): void {
    const pod = this.#pods.get(uid);
    if (pod === undefined) {
      done();
      return;
    }
    this.#pods.delete(uid);
    this.#refusedAtMs.delete(uid);
    if (this.#byIndex.get(pod.pod.podIndex) === pod) this.#byIndex.delete(pod.pod.podIndex);
    const inUse = new Set([...this.#pods.values()].map((state) => state.pod.identity));
    this.#context.contexts.retain(inUse, this.#context.clock.wallMs());
    pod.close(() => {
      this.#context.store.removeOwner(uid);
      done();
    });
  }

  /**
   * Lets connections end, and says when they have. New ones are served to the last: a successor's listeners stand in
   * the place of these once it is there; until then a client would hang in the backlog.
   */
  #drain(graceMs: number): void {
    // Also anew: whoever asks again is told again.
    this.#draining?.cancel();
    const { clock, http } = this.#context;
    http.drain(graceMs);
    const begun = clock.nowMs();
    const check = (): void => {
      const passed = clock.nowMs() - begun;
      // Whoever asks within this time is told with the answer that the connection ends. A close out of the blue could
      // meet a request on its way.
      if (passed >= IDLE_CLOSE_MS) http.dismiss();
      if (this.connections === 0 || passed >= graceMs) {
        this.#context.accessLog.flush();
        this.#options.post({ type: 'drained' });
      } else this.#draining = clock.after(DRAIN_CHECK_MS, check);
    };
    this.#draining = clock.after(0, check);
  }

  #resume(): void {
    this.#draining?.cancel();
    this.#draining = null;
    this.#context.http.resume();
  }
}
