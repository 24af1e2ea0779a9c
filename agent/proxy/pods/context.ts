// SPDX-License-Identifier: Apache-2.0
// What all connections of a worker share, and the few things that every stage of a connection does.

import type { Socket } from 'node:net';
import type { Clock, Random } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { joinLabels } from '#lib/metrics/model.ts';
import { descriptorOf } from '#lib/net/descriptor.ts';
import type { FairStarts } from '#lib/net/fair-starts.ts';
import { nodeSocket } from '#lib/net/node-socket.ts';
import type { PlainSocket } from '#lib/net/plain-socket.ts';
import type { Readiness } from '#lib/net/readiness.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import type { MetricStore } from '#lib/metrics/store.ts';
import type { AccessLog } from '../access-log/lines.ts';
import type { WorkerKernel } from '../accept/kernel.ts';
import type { WorkerLoads } from '../accept/spread.ts';
import { attachDataSource, type ByteSource, type TcpSource } from '../exchange/byte-source.ts';
import type { HttpMetrics, HttpServer } from '../exchange/types.ts';
import type { Http1Limit } from '../http1/limits.ts';
import type { Http2Limit } from '#lib/http2/limits.ts';
import type { HandedConnection, SameNode } from '../model.ts';
import type { TransportMetrics } from '../metrics/transport-metrics.ts';
import type { Destinations } from '../route/destinations.ts';
import type { TlsContexts } from '../tls/contexts.ts';
import type { MeshServerMode, MeshTlsServer } from '../tls/mesh-server.ts';
import type { LateKeepAlive } from './late-keep-alive.ts';
import type { PodState } from './pod-state.ts';

/** A connection to a pod's admin port. */
export interface AdminVisit {
  /** Whether policy lets this client see the metrics, asked at each request. */
  readonly metricsAllowed: () => boolean;
  readonly metrics: HttpMetrics & { close(): void };
}

export interface WorkerContext {
  readonly kernel: WorkerKernel;
  /** Of connections and listeners that are not libuv's. */
  readonly readiness: Readiness;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly store: MetricStore;
  readonly transports: TransportMetrics;
  readonly keepAlive: LateKeepAlive;
  readonly contexts: TlsContexts;
  readonly meshServer: MeshTlsServer;
  /** Turns of all pods' TLS handshakes, both sides. */
  readonly handshakes: FairStarts;
  readonly http: HttpServer;
  readonly accessLog: AccessLog;
  /** Null: there is one worker only. */
  readonly loads: WorkerLoads | null;
  /** Gives a connection to another worker; the descriptor is its. */
  handOver(connection: HandedConnection): void;
  /** Numbers requests for who listens to exchanges. */
  readonly nextTapId: () => number;
  readonly destinations: Destinations;
  readonly sameNode: SameNode;
  readonly permitKey: Buffer;
  readonly failfastMs: number;
  /** Descriptors from this number on are not for new connections. */
  readonly descriptorsMax: number;
  /** How long a connection waits for the first answer about its destination. */
  readonly discoveryTimeoutMs: number;
  /** Perhaps nothing listens there any more: the control thread looks again. */
  applicationRefused(pod: PodState): void;
  /** A pod of this node by its number in kernel records. */
  podByIndex(index: number): PodState | undefined;
  podByUid(uid: string): PodState | undefined;
  /** Serves a connection of the pod to itself at its inbound side. */
  joinInbound(pod: PodState, plain: PlainSocket, local: { readonly ip: string; readonly port: number }): void;
  /** Serves /live, /ready and this pod's /metrics. */
  servePodAdmin(pod: PodState, socket: Socket, visit: AdminVisit): void;
}

/** Why a connection was closed before it was served; label `reason`. */
export type RefusalReason =
  | 'no_destination'
  | 'loopback'
  | 'limit'
  | 'descriptors'
  | 'waiting'
  | 'tap'
  | 'not_mesh'
  | 'kernel_record'
  | 'discovery'
  | 'destinations'
  | 'closed';

export function countRefusal(context: WorkerContext, pod: PodState, reason: RefusalReason): void {
  countOnce(context, 'nodemesh_connections_refused_total', `reason="${reason}"`, pod);
}

export function countHttpLimit(
  context: WorkerContext,
  pod: PodState,
  version: 1 | 2,
  limit: Http1Limit | Http2Limit,
): void {
  countOnce(context, `nodemesh_http${version}_limits_total`, `limit="${limit}"`, pod);
}

/** Resets an accepted connection for which the pod or the process has no room; true: it did. */
export function refusedForRoom(context: WorkerContext, pod: PodState, source: TcpSource): boolean {
  if (pod.full) countRefusal(context, pod, 'limit');
  else if (isScarce(context, descriptorOf(source.socket))) refuseForDescriptors(context, pod);
  else return false;
  source.reset();
  return true;
}

/** The kernel gives the lowest free number: all below it are in use. */
export const isScarce = (context: WorkerContext, fd: number | undefined): boolean =>
  fd !== undefined && fd >= context.descriptorsMax;

export function refuseForDescriptors(context: WorkerContext, pod: PodState): void {
  countRefusal(context, pod, 'descriptors');
  context.log.error(
    { pod: pod.name, inUse: context.descriptorsMax },
    'a connection is refused: the agent has used up its descriptors; raise its limit of open files (RLIMIT_NOFILE)',
  );
}

/** For what happens seldom: resolves, counts and lets go. */
export function countOnce(context: WorkerContext, family: string, labels: string, pod: PodState): void {
  const cell = context.store.cell(family, joinLabels(labels, pod.labels), pod.uid);
  cell.add(1);
  context.store.release(cell);
}

/** Until `pod.waiting.remove`: a client that has not said who it is takes the place of the one that waits longest. */
export function awaitClient(context: WorkerContext, pod: PodState, socket: StreamSocket): void {
  for (const oldest of pod.waiting.add(socket, context.clock.nowMs())) {
    countRefusal(context, pod, 'waiting');
    context.log.warn(
      { pod: pod.name, client: oldest.remoteAddress, waiting: pod.waiting.size },
      'too many clients have not finished their TLS hello; the longest waiting one is closed',
    );
    oldest.destroy();
  }
}

/** What is inside TLS and whom the client proved to be ('': nobody), or null, whom it said it was, and why it is refused. */
export type TlsAccepted = (inner: ByteSource | null, identity: string, reason: string) => void;

/** Ends TLS of an accepted connection when it is the pod's turn; then its client waits no longer. */
export function acceptTls(
  context: WorkerContext,
  pod: PodState,
  mode: MeshServerMode,
  plain: PlainSocket,
  first: Buffer | null,
  done: TlsAccepted,
): void {
  context.handshakes.start(pod.handshakes, (over) => {
    pod.waiting.remove(plain);
    // Whoever destroyed it has counted why.
    if (plain.destroyed) {
      over();
      return;
    }
    const raw = asNodeSocket(context, pod, plain);
    awaitClient(context, pod, raw);
    context.meshServer.accept(mode, raw, first, (secured, reason, presented) => {
      over();
      pod.waiting.remove(raw);
      if (secured === null) {
        raw.destroy();
        done(null, presented, reason);
        return;
      }
      adoptSocket(context, pod, secured.socket);
      done(pod.budgeted(attachDataSource(secured.socket, raw)), secured.identity, '');
    });
  });
}

/** The connection as a socket of Node.js, paused and the pod's as before: for TLS and for its HTTP server. */
export function asNodeSocket(context: WorkerContext, pod: PodState, plain: PlainSocket): Socket {
  const fd = plain.detach();
  context.kernel.handOver(fd);
  const socket = nodeSocket(fd);
  adoptSocket(context, pod, socket);
  // One that lasts counts until its own end.
  const { loads } = context;
  if (loads !== null && plain.listenerCount('close', loads.onClosed) > 0) {
    plain.off('close', loads.onClosed);
    socket.on('close', loads.onClosed);
  }
  return socket;
}

/** As `countOnce`, for a histogram. */
export function observeOnce(
  context: WorkerContext,
  family: string,
  labels: string,
  pod: PodState,
  value: number,
): void {
  const cell = context.store.cell(family, joinLabels(labels, pod.labels), pod.uid);
  cell.observe(value);
  context.store.release(cell);
}

/** Makes the socket the pod's; its errors are somebody's business even if no stage listens. */
export function adoptSocket(context: WorkerContext, pod: PodState, socket: StreamSocket): void {
  pod.onError ??= (error) =>
    context.log.debug({ pod: pod.name, error: errorMessage(error) }, 'connection failed');
  socket.on('error', pod.onError);
  pod.adopt(socket);
}
