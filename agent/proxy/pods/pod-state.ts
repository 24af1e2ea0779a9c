// SPDX-License-Identifier: Apache-2.0
// What a worker keeps of one pod: its configuration made ready for use, and everything that is open for it, so that
// nothing is left when the pod goes.

import { TLSSocket } from 'node:tls';
import { canonicalIp, portsContain } from '#lib/core/addresses.ts';
import { StartQueue } from '#lib/net/fair-starts.ts';
import { ofSocket } from '#lib/net/of-socket.ts';
import type { PlainListener } from '#lib/net/plain-listener.ts';
import { ReadBudget } from '#lib/net/read-budget.ts';
import { resetSocket } from '#lib/net/reset.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import type { ListenerHandle, WorkerPod } from '../model.ts';
import { podLabels } from '../metrics/labels.ts';
import { type CompiledPolicy, compilePolicy } from '../policy/authorize.ts';
import type { InboundTarget } from '../route/inbound-target.ts';
import type { OutboundTarget } from '../route/outbound-target.ts';
import { PodTaps } from '../tap/pod-taps.ts';
import type { SpareSockets } from './spare-sockets.ts';
import { WaitingClients } from './waiting-clients.ts';

/** Of one pod in one worker, where descriptors are plenty; more are closed at once. */
export const POD_CONNECTIONS_MAX = 16_384;

/** An inbound TCP connection that policy has let in. */
export interface TcpPermit {
  /** Judges again; ends the connection if it is no longer allowed. */
  reconsider(): void;
}

export class PodState {
  readonly uid: string;
  readonly spares: SpareSockets;
  readonly listeners = new Map<PlainListener, ListenerHandle>();
  /** Accepted and dialled ones. */
  readonly sockets = new Set<StreamSocket>();
  readonly permits = new Set<TcpPermit>();
  readonly waiting = new WaitingClients();
  readonly taps = new PodTaps();
  readonly #budget = new ReadBudget(() => this.onHeld());
  /** One of its connections has to wait for a turn. */
  onHeld: () => void = () => undefined;
  /** TLS handshakes of this pod that wait for a turn. */
  readonly handshakes = new StartQueue();
  /** For each of its sockets. */
  onError: ((error: Error) => void) | null = null;
  /** One for all sockets: a function of its own for each is memory and work that ten thousand feel. */
  readonly #onClose = ofSocket((socket) => this.#left(socket));
  readonly inboundTargets = new Map<string, InboundTarget>();
  readonly outboundTargets = new Map<string, OutboundTarget>();
  /** The pod's own labels, at the end of each of its series. */
  readonly labels: string;
  gone = false;
  #pod: WorkerPod;
  #addresses: ReadonlySet<string> = new Set();
  #policies: ReadonlyMap<number, CompiledPolicy> = new Map();
  #fallback: CompiledPolicy;
  readonly #connectionsMax: number;
  #whenEmpty: (() => void) | null = null;

  constructor(
    pod: WorkerPod,
    spares: SpareSockets,
    controlPlaneNamespace: string,
    connectionsMax = POD_CONNECTIONS_MAX,
  ) {
    this.#connectionsMax = connectionsMax;
    this.uid = pod.uid;
    this.spares = spares;
    this.labels = podLabels(pod, controlPlaneNamespace);
    this.#pod = pod;
    this.#fallback = compilePolicy(pod.policies.fallback);
    this.update(pod);
  }

  get pod(): WorkerPod {
    return this.#pod;
  }

  get name(): string {
    return `${this.#pod.namespace}/${this.#pod.name}`;
  }

  /** New configuration of the same pod; connections that policy no longer allows are ended. */
  update(pod: WorkerPod): void {
    this.#pod = pod;
    this.#addresses = new Set(pod.addresses.map((address) => canonicalIp(address) ?? address));
    this.#policies = new Map(pod.policies.byPort.map(([port, policy]) => [port, compilePolicy(policy)]));
    this.#fallback = compilePolicy(pod.policies.fallback);
    for (const permit of this.permits) permit.reconsider();
  }

  /** The pod opted out: HTTP connections end with their next answer. */
  get leaving(): boolean {
    return this.#pod.leaving === true;
  }

  owns(ip: string): boolean {
    return this.#addresses.has(ip);
  }

  policyOf(port: number): CompiledPolicy {
    return this.#policies.get(port) ?? this.#fallback;
  }

  /** Whether nothing may be detected on this port. */
  isOpaque(port: number): boolean {
    return this.policyOf(port).source.protocol === 'opaque' || portsContain(this.#pod.opaquePorts, port);
  }

  get full(): boolean {
    return this.sockets.size >= this.#connectionsMax;
  }

  /** What it may read counts with the pod's other connections from now on. */
  budgeted<Source extends Pick<TcpSource, 'budget'>>(source: Source): Source {
    source.budget = this.#budget;
    return source;
  }

  /** From now on the socket ends with the pod. */
  adopt(socket: StreamSocket): void {
    this.sockets.add(socket);
    socket.on('close', this.#onClose);
    if (this.gone) socket.destroy();
  }

  #left(socket: StreamSocket): void {
    this.sockets.delete(socket);
    this.waiting.remove(socket);
    // After what others do at the end of this socket.
    if (this.sockets.size === 0 && this.#whenEmpty !== null) setImmediate(this.#whenEmpty);
  }

  /** Somebody else accepts on the same listeners from now on; what was accepted here stays. */
  stopAccepting(which: (listener: ListenerHandle) => boolean = () => true): void {
    for (const [server, listener] of this.listeners) {
      if (!which(listener)) continue;
      // The socket underneath lives on: this is a duplicate.
      server.close();
      this.listeners.delete(server);
    }
  }

  dropListener({ direction, family, slot }: ListenerHandle): void {
    this.stopAccepting(
      (other) => other.direction === direction && other.family === family && other.slot === slot,
    );
  }

  /** Closes everything; calls back when the last descriptor is closed. */
  close(done: () => void): void {
    this.gone = true;
    let waiting = 1;
    const closed = (): void => {
      if (--waiting === 0) done();
    };
    for (const listener of this.listeners.keys()) listener.close();
    this.listeners.clear();
    this.spares.close();
    for (const target of this.outboundTargets.values()) target.close();
    for (const target of this.inboundTargets.values()) target.close();
    if (this.sockets.size > 0) {
      waiting++;
      this.#whenEmpty = closed;
      for (const socket of this.sockets) cutOff(socket);
    }
    closed();
  }
}

/** The peer shall not take what it has for all there was: an RST where there can be one. */
function cutOff(socket: StreamSocket): void {
  if (socket instanceof TLSSocket) socket.destroy();
  else resetSocket(socket);
}
