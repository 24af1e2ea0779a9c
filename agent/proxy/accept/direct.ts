// SPDX-License-Identifier: Apache-2.0
// Connections to the mesh port: mutually authenticated TLS, or the kernel's voucher for a pod of this node, then the
// transport header that names the port and protocol. Anything else is closed: there is no plain text here.

import type { Socket } from 'node:net';
import { joinLabels, renderLabels } from '#lib/metrics/model.ts';
import { CLIENT_HELLO_BYTES_MAX, type ClientHello, parseClientHello } from '../detect/client-hello.ts';
import { type Collected, collectBytes, lookAhead } from '../detect/collect.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import type { ByteSource, TcpSource } from '../exchange/byte-source.ts';
import {
  acceptTls,
  asNodeSocket,
  awaitClient,
  countOnce,
  countRefusal,
  type WorkerContext,
} from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { authorize } from '../policy/authorize.ts';
import { type InboundClient, type InboundServer, policyClient } from '../policy/client.ts';
import { countInboundError, inboundHttpMetrics } from '../route/inbound-target.ts';
import { grantPermit, PERMIT_NAME } from '../route/permit.ts';
import {
  type DecodedHeader,
  decodeTransportHeader,
  TRANSPORT_HEADER_BYTES_MAX,
  type TransportHeader,
} from '../tls/transport-header.ts';
import { ADMIN_PORT, MESH_PORT } from '#lib/core/mesh-ports.ts';
import { readRecord } from './outbound.ts';
import { type Arrived, handedOn } from './spread.ts';
import { serveHttp, serveTcp, trackInbound } from './serve-inbound.ts';

const DETECT_TIMEOUT_MS = 10_000;

export function acceptDirect(
  context: WorkerContext,
  pod: PodState,
  source: PlainSocket,
  server: InboundServer,
  client: InboundClient,
  arrived: Arrived | null,
): void {
  const record = readRecord(context, pod, source);
  // Agents keep them and send many requests over each.
  const lasting = (first: Buffer | null) => ({ direction: 'inbound', protocol: null, first }) as const;
  if (record?.kind === 'voucher') {
    if (handedOn(context, pod, source, lasting(null), arrived)) return;
    const peer = context.podByIndex(record.clientPodIndex);
    if (peer === undefined || peer.pod.identity === '') {
      refuse(context, pod, source, server, client, '', `no pod ${record.clientPodIndex} on this node`);
      return;
    }
    const vouched: InboundClient = {
      ...client,
      tls: { kind: 'meshed', identity: peer.pod.identity, serverName: '', sameNode: true },
    };
    readHeader(context, pod, source, server, vouched, peer);
    return;
  }
  awaitClient(context, pod, source);
  let hello: ClientHello = { kind: 'partial' };
  const options = {
    bytesMax: CLIENT_HELLO_BYTES_MAX,
    timeoutMs: DETECT_TIMEOUT_MS,
    clock: context.clock,
    decide: (bytes: Buffer) => {
      hello = parseClientHello(bytes);
      return hello.kind !== 'partial';
    },
  };
  const decided = (outcome: Collected, first: Buffer, unread: boolean): void => {
    if (outcome === 'closed') return;
    if (outcome === 'timeout') {
      countInboundError(context, pod, server, 'tcp', 'tls detection timeout');
      context.log.warn(
        { pod: pod.name, client: client.ip, bytes: first.length },
        'a client of the mesh port sent no TLS hello in time',
      );
      source.destroy();
    } else if (hello.kind !== 'hello') {
      countRefusal(context, pod, 'not_mesh');
      refuse(context, pod, source, server, client, '', 'neither TLS nor a voucher of this node');
    } else if (hello.serverName !== pod.pod.identity.toLowerCase()) {
      const asked = hello.serverName ?? 'no name';
      refuse(context, pod, source, server, client, '', `asked for ${asked}, this is ${pod.pod.identity}`);
    } else if (!handedOn(context, pod, source, lasting(unread ? null : first), arrived)) {
      endTls(context, pod, source, server, client, unread ? null : first);
    }
  };
  const first = arrived?.first ?? null;
  // TLS that is given its first bytes keeps a buffer of their size, and reads with two calls what one could bring.
  if (first === null) lookAhead(source, options, decided);
  else collectBytes(source, first, options, (outcome, bytes) => decided(outcome, bytes, false));
}

function endTls(
  context: WorkerContext,
  pod: PodState,
  plain: PlainSocket,
  server: InboundServer,
  client: InboundClient,
  hello: Buffer | null,
): void {
  acceptTls(context, pod, 'direct', plain, hello, (inner, identity, reason) => {
    if (inner === null) {
      refuse(context, pod, null, server, client, identity, reason);
      return;
    }
    const meshed: InboundClient = {
      ...client,
      tls: { kind: 'meshed', identity, serverName: '', sameNode: false },
    };
    readHeader(context, pod, inner, server, meshed, null);
  });
}

function readHeader(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  server: InboundServer,
  client: InboundClient,
  vouchedFor: PodState | null,
): void {
  let decoded: DecodedHeader = { kind: 'partial' };
  const options = {
    // What follows the header may come with it.
    bytesMax: TRANSPORT_HEADER_BYTES_MAX + 65_536,
    timeoutMs: DETECT_TIMEOUT_MS,
    clock: context.clock,
    decide: (bytes: Buffer) => {
      decoded = decodeTransportHeader(bytes);
      return decoded.kind !== 'partial';
    },
  };
  collectBytes(source, null, options, (outcome, bytes) => {
    if (outcome === 'closed') return;
    const { identity } = client.tls;
    if (decoded.kind === 'header') {
      const rest = bytes.subarray(decoded.bytes);
      if (vouchedFor !== null && decoded.header.name === PERMIT_NAME) {
        countHeader(context, pod, { ...decoded.header, name: '' }, identity);
        trackInbound(context, pod, source.socket, { ip: server.ip, port: decoded.header.port }, client);
        grantPermit(context, vouchedFor, pod, source, rest);
      } else serve(context, pod, source, server, client, decoded.header, rest);
      return;
    }
    const reason = decoded.kind === 'invalid' ? decoded.reason : 'no transport header';
    refuse(
      context,
      pod,
      source,
      server,
      client,
      identity,
      outcome === 'timeout' ? 'no header in time' : reason,
    );
  });
}

function serve(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  local: InboundServer,
  client: InboundClient,
  header: TransportHeader,
  rest: Buffer,
): void {
  const { identity } = client.tls;
  if (header.name !== '') {
    refuse(context, pod, source, local, client, identity, `asked for ${header.name}: this is no gateway`);
    return;
  }
  const server = { ip: local.ip, port: header.port };
  countHeader(context, pod, header, identity);
  if (server.port === ADMIN_PORT) {
    const socket = nodeSocketOf(context, pod, source);
    trackInbound(context, pod, socket, server, client);
    const facts = policyClient(client);
    const metricsAllowed = (): boolean => authorize(pod.policyOf(ADMIN_PORT), facts) !== null;
    if (rest.length > 0) socket.unshift(rest);
    const metrics = inboundHttpMetrics(context, pod, server, client);
    context.servePodAdmin(pod, socket, { metricsAllowed, metrics });
    return;
  }
  trackInbound(context, pod, source.socket, server, client);
  if (server.port === MESH_PORT) {
    refuse(context, pod, source, local, client, identity, 'asked for the mesh port itself');
  } else if (header.protocol !== undefined && !pod.isOpaque(server.port)) {
    serveHttp(context, pod, source, server, client, rest, header.protocol === 'http2');
  } else serveTcp(context, pod, source, server, client, rest);
}

/** For the admin server, which reads the socket itself. */
function nodeSocketOf(context: WorkerContext, pod: PodState, source: TcpSource): Socket {
  if (source instanceof PlainSocket) return asNodeSocket(context, pod, source);
  source.onBytes = () => undefined;
  // There is no third kind.
  return (source as ByteSource).socket;
}

function countHeader(context: WorkerContext, pod: PodState, header: TransportHeader, identity: string): void {
  const protocol = header.protocol === undefined ? '' : header.protocol === 'http1' ? 'http/1' : 'http/2';
  const labels = renderLabels({
    session_protocol: protocol,
    target_port: String(header.port),
    target_name: header.name,
    client_id: identity,
  });
  countOnce(context, 'inbound_tcp_transport_header_connections_total', joinLabels(labels, ''), pod);
}

function refuse(
  context: WorkerContext,
  pod: PodState,
  /** Null: it is closed already. */
  source: TcpSource | null,
  server: InboundServer,
  client: InboundClient,
  presented: string,
  reason: string,
): void {
  countInboundError(context, pod, server, 'tcp', 'unexpected');
  context.log.warn(
    {
      pod: pod.name,
      podIdentity: pod.pod.identity,
      client: client.ip,
      clientIdentity: presented,
      reason,
    },
    'a connection to the mesh port is refused',
  );
  source?.socket.destroy();
}
