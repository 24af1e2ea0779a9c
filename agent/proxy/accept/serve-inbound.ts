// SPDX-License-Identifier: Apache-2.0
// The last step of an inbound connection, when client, server port and protocol are known: policy, then the
// application.

import type { StreamSocket } from '#lib/net/stream-socket.ts';
import { inboundLog } from '../access-log/inbound-log.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import { errorLabel } from '../metrics/error-labels.ts';
import { countHttpLimit, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { type InboundClient, type InboundServer, inboundTransportLabels } from '../policy/client.ts';
import { InboundGate, permitTcp } from '../policy/gate.ts';
import { inboundTap } from '../tap/inbound-tap.ts';
import { countInboundError, dialApplication, inboundTarget } from '../route/inbound-target.ts';
import { relay } from '../tcp/relay.ts';

/** Counts the connection from here on, under what is known of its client now. */
export function trackInbound(
  context: WorkerContext,
  pod: PodState,
  socket: StreamSocket,
  server: InboundServer,
  client: InboundClient,
): void {
  context.transports.track(socket, inboundTransportLabels(pod, server, client), pod.uid);
}

export function serveHttp(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  server: InboundServer,
  client: InboundClient,
  first: Buffer,
  http2 = false,
): void {
  const target = inboundTarget(context, pod, server, client);
  const gate = new InboundGate(context, pod, server, client);
  let closed = false;
  context.http.serve({
    source,
    first: first.length === 0 ? null : first,
    http2,
    target,
    gate,
    log: inboundLog(context, pod, client, gate.clientId),
    observer: inboundTap(context, pod, server, client),
    owner: pod,
    onLimit: (version, limit) => countHttpLimit(context, pod, version, limit),
    onClosed: () => {
      if (closed) return;
      closed = true;
      gate.close();
      target.release();
    },
  });
}

export function serveTcp(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  server: InboundServer,
  client: InboundClient,
  first: Buffer | null,
): void {
  let terminate = (): void => source.reset();
  const permit = permitTcp(context, pod, server, client, () => terminate());
  if (permit === null) {
    source.reset();
    return;
  }
  source.socket.on('close', () => permit.release());
  if (source.socket.destroyed) {
    permit.release();
    return;
  }
  dialApplication(context, pod, server, client, (failure, upstream) => {
    if (upstream === null) {
      countInboundError(context, pod, server, 'tcp', errorLabel(failure));
      // Too late to refuse the connect: an error is the nearest to it.
      source.reset();
      return;
    }
    terminate = relay(source, upstream, first, { clock: context.clock, onClosed: () => undefined });
    // Judged while the application was dialled.
    if (source.socket.destroyed) upstream.reset();
  });
}
