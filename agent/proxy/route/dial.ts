// SPDX-License-Identifier: Apache-2.0
// Connections out of a pod's namespace: plain, and in the mesh's wire form (TLS with the pod's certificate, or the
// kernel's voucher on the same node; then the transport header). A meshed endpoint is never dialled in plain text.

import type { SecureContext, TLSSocket } from 'node:tls';
import { formatSocketAddress } from '#lib/core/addresses.ts';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import { SharedSource } from '#lib/net/accept.ts';
import { attachDataSource, type ByteSource } from '../exchange/byte-source.ts';
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

export type Dialled = (failure: number, source: ByteSource | null) => void;

export interface DialOptions {
  readonly ip: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly mark: DialMark;
}

/** A TCP connection from inside the pod. Calls back once, never synchronously; the source is paused. */
export function dialTcp(context: WorkerContext, pod: PodState, options: DialOptions, done: Dialled): void {
  const { kernel, clock, log } = context;
  const { ip, port, mark } = options;
  if (pod.gone || pod.full) {
    setImmediate(done, FAILURE_LIMIT, null);
    return;
  }
  let source: SharedSource;
  try {
    const fd = pod.spares.take(ip.includes(':') ? 6 : 4);
    if (isScarce(context, fd)) {
      kernel.closeDescriptor(fd);
      refuseForDescriptors(context, pod);
      setImmediate(done, FAILURE_LIMIT, null);
      return;
    }
    try {
      if (mark.kind === 'own') kernel.markOwn(fd);
      else if (mark.kind === 'carrier') kernel.markCarrier(fd, mark.podIndex);
      else kernel.markClient(fd, mark.ip, mark.port);
    } catch (error) {
      kernel.closeDescriptor(fd);
      throw error;
    }
    kernel.handOver(fd);
    source = pod.budgeted(SharedSource.ofTcp(fd));
  } catch (error) {
    log.warn(
      { pod: pod.name, target: formatSocketAddress(ip, port), error: errorMessage(error) },
      'no socket in the pod',
    );
    setImmediate(done, FAILURE_CONNECT_OTHER, null);
    return;
  }
  const { socket } = source;
  adoptSocket(context, pod, socket);
  context.keepAlive.add(socket);
  let settled = false;
  const settle = (failure: number): void => {
    if (settled) return;
    settled = true;
    timer.cancel();
    if (failure === FAILURE_NONE) done(failure, source);
    else {
      socket.destroy();
      done(failure, null);
    }
  };
  // A thread that was busy for as long sees its timers before its sockets: what is connected already shall count.
  const timer = clock.after(options.timeoutMs, () => setImmediate(settle, FAILURE_CONNECT_TIMEOUT));
  // Not `once`, which costs more: each comes once.
  socket.on('connect', () => settle(FAILURE_NONE));
  socket.on('error', (error) => settle(failureOf(error)));
  socket.on('close', () => settle(FAILURE_CONNECT_OTHER));
  // Paused from the start: whoever gets the source sets a receiver first.
  socket.pause();
  socket.connect({ host: ip, port });
}

function failureOf(error: Error): number {
  const name = errnoName(error);
  if (name === 'ECONNREFUSED') return FAILURE_CONNECT_REFUSED;
  return name === 'ETIMEDOUT' ? FAILURE_CONNECT_TIMEOUT : FAILURE_CONNECT_OTHER;
}

/** A connection to an endpoint that is not this pod, up to where the first byte of the session may be written. */
export function dialEndpoint(
  context: WorkerContext,
  pod: PodState,
  endpoint: Endpoint,
  protocol: SessionProtocol,
  done: Dialled,
): void {
  const timeoutMs = pod.pod.connectTimeoutOutboundMs;
  const { ip, identity, inboundPort } = endpoint;
  if (identity === undefined) {
    dialTcp(context, pod, { ip, port: endpoint.port, timeoutMs, mark: { kind: 'own' } }, done);
    return;
  }
  if (inboundPort !== undefined && onThisNode(context, endpoint) !== undefined) {
    const mark: DialMark = { kind: 'carrier', podIndex: pod.pod.podIndex };
    dialTcp(context, pod, { ip, port: inboundPort, timeoutMs, mark }, (failure, source) => {
      source?.socket.write(encodeTransportHeader(endpoint.port, protocol));
      done(failure, source);
    });
    return;
  }
  const tls = ownContext(context, pod);
  if (tls === undefined) {
    setImmediate(done, FAILURE_NO_CERTIFICATE, null);
    return;
  }
  const port = inboundPort ?? endpoint.port;
  dialTcp(context, pod, { ip, port, timeoutMs, mark: { kind: 'own' } }, (failure, raw) => {
    if (raw === null) {
      done(failure, null);
      return;
    }
    const options = {
      context: tls,
      serverIdentity: identity,
      header: inboundPort !== undefined,
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
      if (inboundPort !== undefined) secure.write(encodeTransportHeader(endpoint.port, protocol));
      done(FAILURE_NONE, pod.budgeted(attachDataSource(secure, raw.socket)));
    };
    context.handshakes.start(pod.handshakes, () => {
      if (raw.socket.destroyed) done(FAILURE_TLS_HANDSHAKE, null);
      else startMeshTls(raw.socket, options, secured);
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
  let near: PairSource;
  let far: PairSource;
  try {
    const [nearFd, farFd] = context.kernel.openPair();
    near = pod.budgeted(new PairSource({ fd: nearFd }));
    far = pod.budgeted(new PairSource({ fd: farFd }));
  } catch (error) {
    context.log.warn({ pod: pod.name, error: errorMessage(error) }, 'no pair of sockets for the pod itself');
    setImmediate(done, FAILURE_CONNECT_OTHER, null);
    return;
  }
  near.other = far;
  far.other = near;
  for (const { socket } of [near, far]) {
    adoptSocket(context, pod, socket);
    socket.pause();
  }
  setImmediate(() => {
    context.joinInbound(pod, far, local);
    done(FAILURE_NONE, near);
  });
}

/** One end of a pair: there is no RST between them, so a reset is told to the other end directly. */
class PairSource extends SharedSource {
  other: PairSource | null = null;

  override reset(): void {
    const { socket } = this;
    if (socket.destroyed) return;
    socket.destroy();
    const far = this.other?.socket;
    if (far !== undefined && !far.destroyed) {
      far.destroy(Object.assign(new Error('the other end reset the connection'), { code: 'ECONNRESET' }));
    }
  }
}
