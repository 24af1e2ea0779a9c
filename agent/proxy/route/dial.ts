// SPDX-License-Identifier: Apache-2.0
// Connections out of a pod's namespace: plain, and in the mesh's wire form (TLS with the pod's certificate, or the
// kernel's voucher on the same node; then the transport header). A meshed endpoint is never dialled in plain text.

import type { Socket } from 'node:net';
import type { SecureContext, TLSSocket } from 'node:tls';
import { formatSocketAddress } from '#lib/core/addresses.ts';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import { nodeSocket } from '#lib/net/node-socket.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import { attachDataSource, type TcpSource } from '../exchange/byte-source.ts';
import {
  FAILURE_CONNECT_OTHER,
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_LIMIT,
  FAILURE_NO_CERTIFICATE,
  FAILURE_NONE,
  FAILURE_TLS_HANDSHAKE,
} from '../failure.ts';
import type { Endpoint } from '../model.ts';
import { adoptSocket, isScarce, refuseForDescriptors, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { startMeshTls } from '../tls/mesh-client.ts';
import { encodeTransportHeader, type SessionProtocol } from '../tls/transport-header.ts';

/** What servers allow, too: a connection may wait in the backlog of an agent that restarts. */
const HANDSHAKE_TIMEOUT_MS = 10_000;

/** How the kernel shall treat the connection. */
export type DialMark =
  | { readonly kind: 'own' }
  | { readonly kind: 'carrier'; readonly podIndex: number }
  | { readonly kind: 'client'; readonly ip: string; readonly port: number };

export type Dialled = (failure: number, source: TcpSource | null) => void;

export interface DialOptions {
  readonly ip: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly mark: DialMark;
}

/** A TCP connection from inside the pod. Calls back once, never synchronously; the source is paused. */
export function dialTcp(context: WorkerContext, pod: PodState, options: DialOptions, done: Dialled): void {
  const fd = openSocket(context, pod, options, done);
  if (fd === null) return;
  const plain = pod.budgeted(new PlainSocket(context.readiness, fd));
  plain.setNoDelay();
  whenConnected(context, pod, options, plain, done);
  plain.connect(options.ip, options.port);
}

/** As dialTcp, for TLS. */
function dialForTls(
  context: WorkerContext,
  pod: PodState,
  options: DialOptions,
  done: (failure: number, raw: Socket | null) => void,
): void {
  const fd = openSocket(context, pod, options, done);
  if (fd === null) return;
  context.kernel.handOver(fd);
  const raw = nodeSocket(fd);
  raw.setNoDelay(true);
  whenConnected(context, pod, options, raw, done);
  raw.connect({ host: options.ip, port: options.port });
}

/** A socket of the pod, marked for the kernel; null: the failure is told, later. */
function openSocket(
  context: WorkerContext,
  pod: PodState,
  { ip, port, mark }: DialOptions,
  done: (failure: number, source: null) => void,
): number | null {
  const { kernel, log } = context;
  if (pod.gone || pod.full) {
    setImmediate(done, FAILURE_LIMIT, null);
    return null;
  }
  try {
    const fd = pod.spares.take(ip.includes(':') ? 6 : 4);
    if (isScarce(context, fd)) {
      kernel.closeDescriptor(fd);
      refuseForDescriptors(context, pod);
      setImmediate(done, FAILURE_LIMIT, null);
      return null;
    }
    try {
      if (mark.kind === 'own') kernel.markOwn(fd);
      else if (mark.kind === 'carrier') kernel.markCarrier(fd, mark.podIndex);
      else kernel.markClient(fd, mark.ip, mark.port);
    } catch (error) {
      kernel.closeDescriptor(fd);
      throw error;
    }
    return fd;
  } catch (error) {
    log.warn(
      { pod: pod.name, target: formatSocketAddress(ip, port), error: errorMessage(error) },
      'no socket in the pod',
    );
    setImmediate(done, FAILURE_CONNECT_OTHER, null);
    return null;
  }
}

/** Calls back once it is connected, or with why it is not, within its time; then it is destroyed. */
function whenConnected<S extends StreamSocket>(
  context: WorkerContext,
  pod: PodState,
  { timeoutMs }: DialOptions,
  socket: S,
  done: (failure: number, socket: S | null) => void,
): void {
  adoptSocket(context, pod, socket);
  context.keepAlive.add(socket);
  let settled = false;
  const settle = (failure: number): void => {
    if (settled) return;
    settled = true;
    timer.cancel();
    if (failure !== FAILURE_NONE) socket.destroy();
    done(failure, failure === FAILURE_NONE ? socket : null);
  };
  // A thread that was busy for as long sees its timers before its sockets: what is connected already shall count.
  const timer = context.clock.after(timeoutMs, () => setImmediate(settle, FAILURE_CONNECT_TIMEOUT));
  // Not `once`, which costs more: each comes once.
  socket.on('connect', () => settle(FAILURE_NONE));
  socket.on('error', (error) => settle(failureOf(error)));
  socket.on('close', () => settle(FAILURE_CONNECT_OTHER));
}

function failureOf(error: Error): number {
  const name = errnoName(error);
  if (name === 'ECONNREFUSED') return FAILURE_CONNECT_REFUSED;
  return name === 'ETIMEDOUT' ? FAILURE_CONNECT_TIMEOUT : FAILURE_CONNECT_OTHER;
}

/** How an endpoint is reached that needs no TLS of ours; null: it does. */
function wayWithoutTls(
  context: WorkerContext,
  pod: PodState,
  endpoint: Endpoint,
): { readonly options: DialOptions; readonly header: boolean } | null {
  const timeoutMs = pod.pod.connectTimeoutOutboundMs;
  const { ip, port, identity, inboundPort } = endpoint;
  if (identity === undefined) {
    return { options: { ip, port, timeoutMs, mark: { kind: 'own' } }, header: false };
  }
  if (inboundPort === undefined || onThisNode(context, endpoint) === undefined) return null;
  const mark: DialMark = { kind: 'carrier', podIndex: pod.pod.podIndex };
  return { options: { ip, port: inboundPort, timeoutMs, mark }, header: true };
}

/** Null: none is sent. A gateway is told what is meant behind it. */
export function headerOf(
  { port, inboundPort, authorityOverride }: Endpoint,
  protocol: SessionProtocol,
): Buffer | null {
  if (authorityOverride === undefined) {
    return inboundPort === undefined ? null : encodeTransportHeader(port, protocol);
  }
  const [name, namedPort] = authorityOverride.split(':');
  return encodeTransportHeader(namedPort === undefined ? port : Number(namedPort), protocol, name);
}

/** A connection to an endpoint that is not this pod, up to where the first byte of the session may be written. */
export function dialEndpoint(
  context: WorkerContext,
  pod: PodState,
  endpoint: Endpoint,
  protocol: SessionProtocol,
  done: Dialled,
): void {
  const way = wayWithoutTls(context, pod, endpoint);
  if (way !== null) {
    dialTcp(context, pod, way.options, (failure, source) => {
      if (way.header) source?.socket.write(encodeTransportHeader(endpoint.port, protocol));
      done(failure, source);
    });
    return;
  }
  const timeoutMs = pod.pod.connectTimeoutOutboundMs;
  const { ip, identity = '', serverName = identity, inboundPort } = endpoint;
  const header = headerOf(endpoint, protocol);
  const tls = ownContext(context, pod);
  if (tls === undefined) {
    setImmediate(done, FAILURE_NO_CERTIFICATE, null);
    return;
  }
  const port = inboundPort ?? endpoint.port;
  dialForTls(context, pod, { ip, port, timeoutMs, mark: { kind: 'own' } }, (failure, raw) => {
    if (raw === null) {
      done(failure, null);
      return;
    }
    const options = {
      context: tls,
      serverIdentity: identity,
      serverName,
      header: header !== null,
      timeoutMs: HANDSHAKE_TIMEOUT_MS,
      clock: context.clock,
    };
    const secured = (tlsFailure: number, secure: TLSSocket | null, reason: string): void => {
      if (secure === null) {
        context.log.warn(
          {
            client: pod.name,
            clientIdentity: pod.pod.identity,
            endpoint: formatSocketAddress(ip, port),
            serverIdentity: identity,
            reason,
          },
          'TLS with an endpoint failed',
        );
        done(tlsFailure, null);
        return;
      }
      adoptSocket(context, pod, secure);
      if (header !== null) secure.write(header);
      done(FAILURE_NONE, pod.budgeted(attachDataSource(secure, raw)));
    };
    context.handshakes.start(pod.handshakes, (over) => {
      if (raw.destroyed) {
        over();
        done(FAILURE_TLS_HANDSHAKE, null);
        return;
      }
      startMeshTls(raw, options, (...result) => {
        over();
        secured(...result);
      });
    });
  });
}

/**
 * The pod of this node for which the kernel vouches, instead of TLS. Nothing proves who is at the other end then, so the
 * pod must be the one that is meant, now: what is known of endpoints may be older than a pod that re-uses an address.
 */
export function onThisNode(context: WorkerContext, endpoint: Endpoint): PodState | undefined {
  const { ip, identity, inboundPort, localPodUid } = endpoint;
  if (context.sameNode === 'mtls') return undefined;
  if (identity === undefined || inboundPort === undefined || localPodUid === undefined) return undefined;
  const server = context.podByUid(localPodUid);
  return server !== undefined && server.pod.identity === identity && server.owns(ip) ? server : undefined;
}

function ownContext(context: WorkerContext, pod: PodState): SecureContext | undefined {
  try {
    return context.contexts.contextOf(pod.pod.identity);
  } catch (error) {
    context.log.error(
      { pod: pod.name, identity: pod.pod.identity, error: errorMessage(error) },
      'the certificate of a pod cannot be used',
    );
    return undefined;
  }
}

/** A connection of the pod to itself: served at its inbound side, as by an unmeshed peer, without leaving. */
export function dialSelf(
  context: WorkerContext,
  pod: PodState,
  local: { readonly ip: string; readonly port: number },
  done: Dialled,
): void {
  if (pod.gone || pod.full) {
    setImmediate(done, FAILURE_LIMIT, null);
    return;
  }
  let near: PairEnd;
  let far: PairEnd;
  try {
    const { kernel, readiness } = context;
    const ends = kernel.openPair();
    [near, far] = ends.map((fd) => pod.budgeted(new PairEnd(readiness, fd))) as [PairEnd, PairEnd];
  } catch (error) {
    context.log.warn({ pod: pod.name, error: errorMessage(error) }, 'no pair of sockets for the pod itself');
    setImmediate(done, FAILURE_CONNECT_OTHER, null);
    return;
  }
  near.other = far;
  far.other = near;
  for (const end of [near, far]) adoptSocket(context, pod, end);
  setImmediate(() => {
    context.joinInbound(pod, far, local);
    done(FAILURE_NONE, near);
  });
}

/** One end of a pair: there is no RST between them, so a reset is told to the other end directly. */
class PairEnd extends PlainSocket {
  other: PlainSocket | null = null;

  override reset(): void {
    if (this.destroyed) return;
    this.destroy();
    this.other?.destroy(
      Object.assign(new Error('the other end reset the connection'), { code: 'ECONNRESET' }),
    );
  }
}
