// SPDX-License-Identifier: Apache-2.0
// A connection that came to the pod: the mesh port, the pod's admin port, or a port of the application, where TLS to
// the pod's own identity ends here and everything else is judged as an unmeshed client.
//
//   4143 ─▶ direct.ts    4190 ─▶ closed    4191 ─▶ TLS to this pod, or none ─▶ live, ready, metrics
//   else ─▶ opaque? ─▶ TLS hello? ─▶ to this pod: end TLS │ to others: as it is ─▶ first bytes ─▶ HTTP │ TCP

import type { Socket } from 'node:net';
import { canonicalIp } from '#lib/core/addresses.ts';
import { CLIENT_HELLO_BYTES_MAX, type ClientHello, parseClientHello } from '../detect/client-hello.ts';
import { collectBytes } from '../detect/collect.ts';
import { judgeProtocol } from '../detect/protocol.ts';
import type { PlainSocket } from '#lib/net/plain-socket.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import type { ServerPolicy } from '../model.ts';
import {
  acceptTls,
  adoptSocket,
  asNodeSocket,
  awaitClient,
  countRefusal,
  refusedForRoom,
  type WorkerContext,
} from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { authorize } from '../policy/authorize.ts';
import {
  type InboundClient,
  type InboundServer,
  inboundTransportLabels,
  NO_TLS,
  PORT_SKIPPED,
  policyClient,
} from '../policy/client.ts';
import { countInboundError, inboundHttpMetrics } from '../route/inbound-target.ts';
import { detectHttp } from './detect-http.ts';
import { acceptDirect } from './direct.ts';
import { type Arrived, handedOn } from './spread.ts';
import { ADMIN_PORT, MESH_PORT, TAP_PORT } from '#lib/core/mesh-ports.ts';
import { serveHttp, serveTcp, trackInbound } from './serve-inbound.ts';

const POLITE_CLOSE_MS = 1_000;
const ADMIN_DETECT_TIMEOUT_MS = 10_000;

/** `arrived`: another worker accepted it. */
export function acceptInbound(
  context: WorkerContext,
  pod: PodState,
  socket: PlainSocket,
  arrived: Arrived | null = null,
): void {
  pod.budgeted(socket);
  const server = { ip: canonicalIp(socket.localAddress ?? '') ?? '', port: socket.localPort ?? 0 };
  const client = {
    ip: canonicalIp(socket.remoteAddress ?? '') ?? '',
    port: socket.remotePort ?? 0,
    tls: NO_TLS,
  };
  if (server.ip === '' || isLoopback(server.ip)) {
    // Only a process inside the pod that found the listener comes this way.
    countRefusal(context, pod, server.ip === '' ? 'closed' : 'loopback');
    socket.destroy();
    return;
  }
  if (refusedForRoom(context, pod, socket)) return;
  adoptSocket(context, pod, socket);
  switch (server.port) {
    case TAP_PORT:
      countRefusal(context, pod, 'tap');
      closePolitely(context, socket);
      return;
    case ADMIN_PORT:
      acceptAdmin(context, pod, socket, server, client);
      return;
    case MESH_PORT:
      acceptDirect(context, pod, socket, server, client, arrived);
      return;
    default:
      serveTransparent(context, pod, socket, server, client, arrived);
  }
}

/** In plain text, as the kubelet asks, or with TLS to the pod's identity, as meshed clients do. */
function acceptAdmin(
  context: WorkerContext,
  pod: PodState,
  plain: PlainSocket,
  server: InboundServer,
  client: InboundClient,
): void {
  const serve = (socket: Socket, who: InboundClient): void => {
    const facts = policyClient(who);
    const metricsAllowed = (): boolean =>
      pod.owns(client.ip) || authorize(pod.policyOf(ADMIN_PORT), facts) !== null;
    context.transports.track(socket, inboundTransportLabels(pod, server, who), pod.uid);
    context.servePodAdmin(pod, socket, {
      metricsAllowed,
      metrics: inboundHttpMetrics(context, pod, server, who),
    });
  };
  awaitClient(context, pod, plain);
  let hello: ClientHello = { kind: 'partial' };
  const options = {
    bytesMax: CLIENT_HELLO_BYTES_MAX,
    timeoutMs: ADMIN_DETECT_TIMEOUT_MS,
    clock: context.clock,
    decide: (bytes: Buffer) => {
      hello = parseClientHello(bytes);
      return hello.kind !== 'partial';
    },
  };
  collectBytes(plain, null, options, (outcome, first) => {
    if (outcome === 'closed') return;
    // Nobody tells the admin server of an end that is past already.
    if (outcome === 'timeout' || outcome === 'end') plain.destroy();
    else if (hello.kind === 'hello') {
      acceptTls(context, pod, 'transparent', plain, first, (inner, identity, reason) => {
        if (inner === null) {
          refuseTls(context, pod, server, client, identity, reason);
          return;
        }
        // The admin server reads the socket itself.
        inner.onBytes = () => undefined;
        serve(inner.socket, { ...client, tls: securedTls(identity) });
      });
    } else {
      pod.waiting.remove(plain);
      const socket = asNodeSocket(context, pod, plain);
      if (first.length > 0) socket.unshift(first);
      serve(socket, client);
    }
  });
}

function securedTls(identity: string): InboundClient['tls'] {
  return { kind: identity === '' ? 'anonymous' : 'meshed', identity, serverName: '', sameNode: false };
}

/** The other half of a connection of the pod to itself. */
export function joinInbound(
  context: WorkerContext,
  pod: PodState,
  plain: PlainSocket,
  server: InboundServer,
): void {
  const stays: Arrived = { plain, protocol: null, first: null };
  serveTransparent(context, pod, plain, server, { ip: server.ip, port: 0, tls: NO_TLS }, stays);
}

function isLoopback(ip: string): boolean {
  return ip.startsWith('127.') || ip === '::1';
}

function closePolitely(context: WorkerContext, socket: PlainSocket): void {
  const timer = context.clock.after(POLITE_CLOSE_MS, () => socket.destroy());
  socket.once('close', () => timer.cancel());
  socket.onBytes = () => undefined;
  socket.resume();
  socket.end();
}

function serveTransparent(
  context: WorkerContext,
  pod: PodState,
  source: PlainSocket,
  server: InboundServer,
  client: InboundClient,
  arrived: Arrived | null,
): void {
  const policy = pod.policyOf(server.port).source;
  if (pod.isOpaque(server.port)) {
    const opaque = { direction: 'inbound', protocol: 'opaque', first: null } as const;
    if (handedOn(context, pod, source, opaque, arrived)) return;
    const skipped = { ...client, tls: PORT_SKIPPED };
    trackInbound(context, pod, source.socket, server, skipped);
    serveTcp(context, pod, source, server, skipped, null);
    return;
  }
  awaitClient(context, pod, source);
  let hello: ClientHello = { kind: 'partial' };
  const options = {
    bytesMax: CLIENT_HELLO_BYTES_MAX,
    timeoutMs: policy.detectTimeoutMs,
    clock: context.clock,
    decide: (bytes: Buffer) => {
      hello = parseClientHello(bytes);
      return hello.kind !== 'partial';
    },
  };
  collectBytes(source, arrived?.first ?? null, options, (outcome, first) => {
    const ours = hello.kind === 'hello' && hello.serverName === pod.pod.identity.toLowerCase();
    if (!ours) pod.waiting.remove(source);
    if (outcome === 'closed') return;
    if (outcome === 'timeout') {
      // As with Linkerd: a port whose server speaks first has to be opaque.
      countInboundError(context, pod, server, 'tcp', 'tls detection timeout');
      context.log.warn(
        { pod: pod.name, port: server.port, client: client.ip, bytes: first.length },
        'a client sent nothing that tells its protocol in time',
      );
      source.reset();
      return;
    }
    if (hello.kind !== 'hello' || hello.serverName === undefined) {
      const http2 = { direction: 'inbound', protocol: null, first } as const;
      if (judgeProtocol(first) === 'http2' && handedOn(context, pod, source, http2, arrived)) return;
      trackInbound(context, pod, source.socket, server, client);
      serveByProtocol(context, pod, source, server, client, first, policy);
    } else if (ours) {
      endTls(context, pod, source, server, client, first);
    } else {
      const passing: InboundClient = {
        ...client,
        tls: { ...NO_TLS, kind: 'passthrough', serverName: hello.serverName },
      };
      trackInbound(context, pod, source.socket, server, passing);
      serveTcp(context, pod, source, server, passing, first);
    }
  });
}

function endTls(
  context: WorkerContext,
  pod: PodState,
  plain: PlainSocket,
  server: InboundServer,
  client: InboundClient,
  hello: Buffer,
): void {
  acceptTls(context, pod, 'transparent', plain, hello, (inner, identity, reason) => {
    if (inner === null) {
      refuseTls(context, pod, server, client, identity, reason);
      return;
    }
    const meshed: InboundClient = { ...client, tls: securedTls(identity) };
    const policy = pod.policyOf(server.port).source;
    trackInbound(context, pod, inner.socket, server, meshed);
    serveByProtocol(context, pod, inner, server, meshed, null, policy);
  });
}

function refuseTls(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  client: InboundClient,
  presented: string,
  reason: string,
): void {
  countInboundError(context, pod, server, 'tcp', 'unexpected');
  context.log.warn(
    { pod: pod.name, port: server.port, client: client.ip, clientIdentity: presented, reason },
    'a TLS client is refused',
  );
}

/** `first` is what was read already. What comes decides, unless policy says what is spoken. */
function serveByProtocol(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  server: InboundServer,
  client: InboundClient,
  first: Buffer | null,
  policy: ServerPolicy,
): void {
  const { protocol: spoken, detectTimeoutMs: timeoutMs } = policy;
  if (spoken === 'tls' || spoken === 'opaque') {
    serveTcp(context, pod, source, server, client, first);
    return;
  }
  detectHttp(context, pod, source, { direction: 'inbound', first, timeoutMs }, (protocol, bytes) => {
    if (protocol === 'http2') {
      serveHttp(context, pod, source, server, client, bytes, true);
    } else if (spoken === 'http1' ? bytes.length > 0 : spoken === 'detect' && protocol === 'http1') {
      serveHttp(context, pod, source, server, client, bytes);
    } else if (spoken === 'detect' || spoken === 'http1') {
      serveTcp(context, pod, source, server, client, bytes);
    } else {
      countInboundError(context, pod, server, 'tcp', 'unexpected');
      source.reset();
    }
  });
}
