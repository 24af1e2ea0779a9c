// SPDX-License-Identifier: Apache-2.0
// A connection that an application of the pod opened: where it was going, what it speaks, and on to the endpoint.
//
//   record of the kernel ─▶ destination known ─▶ opaque? ─▶ first bytes ─▶ HTTP: exchange │ else: relay

import { canonicalIp, formatSocketAddress } from '#lib/core/addresses.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { TEST_ADDRESSES, TEST_PORT } from '#lib/core/mesh-ports.ts';
import { descriptorOf } from '#lib/net/descriptor.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';
import type { Protocol } from '../detect/protocol.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import type { HttpTarget } from '../exchange/types.ts';
import {
  FAILURE_CONNECT_OTHER,
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_NONE,
} from '../failure.ts';
import {
  adoptSocket,
  countHttpLimit,
  countRefusal,
  refusedForRoom,
  type WorkerContext,
} from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import {
  type OutboundEndpoint,
  type OutboundTarget,
  outboundTarget,
  unresolvedTarget,
} from '../route/outbound-target.ts';
import { ConnectionTap } from '../tap/connection-tap.ts';
import { relay } from '../tcp/relay.ts';
import { detectHttp } from './detect-http.ts';
import type { AcceptedRecord } from './kernel.ts';
import { type Arrived, handedOn } from './spread.ts';

const nothing = (): void => undefined;

/** Endpoints that one TCP connection tries. */
const TCP_ATTEMPTS = 2;

/** `arrived`: another worker accepted it. */
export function acceptOutbound(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  arrived: Arrived | null = null,
): void {
  const target = targetOf(context, pod, source);
  if (target === null) return;
  own(context, pod, source, target, arrived);
  target.whenKnown((failure) => {
    if (source.socket.destroyed) return;
    if (failure === FAILURE_NONE) serve(context, pod, source, target, arrived);
    else serveUnresolved(context, pod, source, target, failure, arrived?.first ?? null);
  });
}

/** Where the connection was going; null: it is refused and closed. */
function targetOf(context: WorkerContext, pod: PodState, source: TcpSource): OutboundTarget | null {
  const { socket } = source;
  const record = readRecord(context, pod, socket);
  if (record?.kind !== 'outbound') {
    // Nobody dialled this: a local process found the listener, or the record is lost.
    countRefusal(context, pod, 'no_destination');
    socket.destroy();
    return null;
  }
  if (refusedForRoom(context, pod, source)) return null;
  const { ip, port } = record;
  if (port === TEST_PORT && TEST_ADDRESSES.includes(ip)) {
    socket.destroy();
    return null;
  }
  return outboundTarget(context, pod, ip, port);
}

/** The connection ends with the pod, is counted, and uses the target until its end. */
function own(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  target: OutboundTarget,
  arrived: Arrived | null,
): void {
  const { socket } = pod.budgeted(source);
  adoptSocket(context, pod, socket);
  if (arrived === null) context.transports.track(socket, target.clientLabels, pod.uid);
  else context.transports.trackArrived(socket, target.clientLabels, pod.uid);
  target.hold();
  socket.on('close', target.onClientClosed);
}

export function readRecord(
  context: WorkerContext,
  pod: PodState,
  socket: StreamSocket,
): AcceptedRecord | undefined {
  const fd = descriptorOf(socket);
  if (fd === undefined) return undefined;
  try {
    return context.kernel.readAccepted(fd);
  } catch (error) {
    context.log.error(
      { pod: pod.name, error: errorMessage(error) },
      'the record of a connection cannot be read',
    );
    countRefusal(context, pod, 'kernel_record');
    return undefined;
  }
}

function serve(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  target: OutboundTarget,
  arrived: Arrived | null,
): void {
  const known = (protocol: Protocol, first: Buffer | null): void => {
    const connection = { direction: 'outbound', protocol, first } as const;
    if (protocol === 'opaque') serveOpaque(context, pod, source, target, first, arrived);
    else if (protocol !== 'http2' || !handedOn(context, pod, source, connection, arrived)) {
      target.countProtocol(protocol === 'http2' ? 'http/2' : 'http/1');
      serveHttp(context, pod, source, target, protocol, first ?? Buffer.alloc(0));
    }
  };
  const protocol = arrived?.protocol ?? null;
  if (protocol !== null) known(protocol, arrived?.first ?? null);
  else if (target.opaque) known('opaque', null);
  else detect(context, pod, source, null, known);
}

function serveOpaque(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  target: OutboundTarget,
  first: Buffer | null,
  arrived: Arrived | null,
): void {
  const connection = { direction: 'outbound', protocol: 'opaque', first } as const;
  if (handedOn(context, pod, source, connection, arrived)) return;
  target.countProtocol('opaq');
  forward(context, source, target, first);
}

function serveHttp(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  target: HttpTarget,
  protocol: Protocol,
  first: Buffer,
): void {
  context.http.serve({
    source,
    first,
    http2: protocol === 'http2',
    target,
    gate: null,
    observer: connectionTap(context, pod, source),
    owner: pod,
    onLimit: (version, limit) => countHttpLimit(context, pod, version, limit),
    onClosed: nothing,
  });
}

function connectionTap(context: WorkerContext, pod: PodState, source: TcpSource): ConnectionTap {
  return new ConnectionTap({
    direction: 'outbound',
    taps: pod.taps,
    source: () => {
      const { remoteAddress = '', remotePort = 0 } = source.socket;
      return {
        ip: canonicalIp(remoteAddress) ?? '',
        port: remotePort,
        tls: 'loopback',
        identity: pod.pod.identity,
      };
    },
    target: { ip: '', port: 0 },
    clock: context.clock,
    random: context.random,
    nextId: context.nextTapId,
  });
}

/** A client that waits for the server to speak first is opaque after the timeout. */
function detect(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  first: Buffer | null,
  done: (protocol: Protocol, first: Buffer) => void,
): void {
  const timeoutMs = pod.pod.detectTimeoutOutboundMs;
  detectHttp(context, pod, source, { direction: 'outbound', first, timeoutMs }, done);
}

/** Never plain text because nobody answers: an HTTP client is told, any other is cut off. */
function serveUnresolved(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  target: OutboundTarget,
  failure: number,
  first: Buffer | null,
): void {
  countRefusal(context, pod, 'discovery');
  context.log.warn(
    { client: pod.name, destination: formatSocketAddress(target.ip, target.port) },
    'destination does not answer; the connection is refused',
  );
  detect(context, pod, source, first, (protocol, bytes) => {
    if (protocol !== 'opaque') {
      const unresolved = unresolvedTarget(target, failure);
      serveHttp(context, pod, source, unresolved, protocol, bytes);
    } else {
      target.countError('tcp', failure);
      source.reset();
    }
  });
}

function forward(
  context: WorkerContext,
  source: TcpSource,
  target: OutboundTarget,
  first: Buffer | null,
): void {
  let failed = false;
  /** Counted as one that came to the balancer, whatever it tries. */
  let waited = false;
  const { tcpRoute } = target;
  const balancer = target.balancerOf('tcp');
  const fail = (failure: number): void => {
    failed = true;
    target.countError('tcp', failure);
    source.reset();
  };
  const attempt = (attempts: number, except: OutboundEndpoint | undefined): void => {
    const endpoint = target.pickTcp(except) ?? except;
    if (endpoint === undefined) {
      balancer?.waits();
      const sinceMs = context.clock.nowMs();
      target.whenAvailable((failure) => {
        balancer?.waited((context.clock.nowMs() - sinceMs) / 1000);
        waited = true;
        if (source.socket.destroyed) return;
        if (failure === FAILURE_NONE) attempt(attempts, undefined);
        else fail(failure);
      });
      return;
    }
    if (!waited) balancer?.passed();
    waited = true;
    endpoint.connectTcp((failure, upstream) => {
      if (upstream === null) {
        if (source.socket.destroyed) return;
        const again = attempts > 1 && isConnectFailure(failure) && target.endpoints.length > 1;
        if (again) attempt(attempts - 1, endpoint);
        else fail(failure);
        return;
      }
      relay(source, upstream, first, { clock: context.clock, onClosed: nothing });
    });
  };
  if (source.socket.destroyed) return;
  tcpRoute.opened();
  source.socket.on('close', () => tcpRoute.closed(failed));
  attempt(TCP_ATTEMPTS, undefined);
}

function isConnectFailure(failure: number): boolean {
  return (
    failure === FAILURE_CONNECT_REFUSED ||
    failure === FAILURE_CONNECT_TIMEOUT ||
    failure === FAILURE_CONNECT_OTHER
  );
}
