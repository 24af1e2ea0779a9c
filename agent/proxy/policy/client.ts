// SPDX-License-Identifier: Apache-2.0
// An inbound connection's client and the server it wants, as policy, metrics and logs see them. Fixed when the
// connection was accepted and, where TLS ended here, secured.

import { clientIp, type PolicyClient } from './authorize.ts';
import { joinLabels } from '#lib/metrics/model.ts';
import {
  DIRECTION_INBOUND,
  type PeerTls,
  peerTlsLabels,
  serverLabels,
  targetLabels,
} from '../metrics/labels.ts';
import type { PodState } from '../pods/pod-state.ts';

export interface InboundClient {
  readonly ip: string;
  readonly port: number;
  readonly tls: PeerTls;
}

/** The server side of the connection: the pod's own address and the port that is meant. */
export interface InboundServer {
  readonly ip: string;
  readonly port: number;
}

export const NO_TLS: PeerTls = { kind: 'none', identity: '', serverName: '', sameNode: false };
export const PORT_SKIPPED: PeerTls = { ...NO_TLS, kind: 'port-skipped' };

export function policyClient(client: InboundClient): PolicyClient {
  const { kind, identity } = client.tls;
  return {
    ip: clientIp(client.ip),
    secured: kind === 'meshed' || kind === 'anonymous',
    identity: kind === 'meshed' ? identity : '',
  };
}

/** `target_*`, TLS and server labels: common to everything counted of an inbound connection. */
export function inboundLabels(pod: PodState, server: InboundServer, client: InboundClient): string {
  return [
    targetLabels(server.ip, server.port),
    peerTlsLabels(client.tls),
    serverLabels(pod.policyOf(server.port).source, server.port),
  ].reduce(joinLabels);
}

export function inboundTransportLabels(pod: PodState, server: InboundServer, client: InboundClient): string {
  return `${DIRECTION_INBOUND},peer="src",${joinLabels(inboundLabels(pod, server, client), pod.labels)}`;
}
