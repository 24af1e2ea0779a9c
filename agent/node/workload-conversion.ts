// SPDX-License-Identifier: Apache-2.0
// Workloads of the node stream as the plain data that enrolment and proxy workers use.

import { networkFromWire } from '#lib/proto/addresses.ts';
import { durationToMs } from '#lib/proto/durations.ts';
import type { Authn, Authz, ProxyProtocol, Server } from '#lib/proto/gen/linkerd/inbound.ts';
import type { Workload } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import type { Authorization, ServerPolicy } from '../proxy/model.ts';
import type { NodeWorkload } from './enrolment-model.ts';

const DETECT_TIMEOUT_MS = 10_000;
const OUTBOUND_CONNECT_TIMEOUT_MS = 1_000;
const INBOUND_CONNECT_TIMEOUT_MS = 100;

/** Nobody gets in: for a workload without a policy, or with one that is not understood. */
const closed: ServerPolicy = {
  protocol: 'opaque',
  detectTimeoutMs: DETECT_TIMEOUT_MS,
  authorizations: [],
  labels: { srv_group: '', srv_kind: 'default', srv_name: 'deny' },
};

export function nodeWorkload(workload: Workload): NodeWorkload {
  const { config } = workload;
  return {
    enrol: workload.enrol,
    notEnrolledReason: workload.notEnrolledReason,
    redirection: {
      skipInboundPorts: config?.skipInboundPorts ?? [],
      skipOutboundPorts: config?.skipOutboundPorts ?? [],
      skipSubnets: config?.skipSubnets ?? [],
    },
    pod: {
      cluster: workload.cluster,
      uid: workload.uid,
      namespace: workload.namespace,
      name: workload.name,
      serviceAccount: workload.serviceAccount,
      identity: workload.identity,
      addresses: workload.addresses,
      ownerKind: workload.ownerKind,
      ownerName: workload.ownerName,
      generation: Number(workload.generation),
      opaquePorts: config?.opaquePorts ?? [],
      skipOutboundPorts: config?.skipOutboundPorts ?? [],
      clientAddressOfProxy: config?.clientAddressOfProxy ?? false,
      accessLog: accessLogFormat(config?.accessLog),
      connectTimeoutOutboundMs: config?.outboundConnectTimeoutMs || OUTBOUND_CONNECT_TIMEOUT_MS,
      connectTimeoutInboundMs: config?.inboundConnectTimeoutMs || INBOUND_CONNECT_TIMEOUT_MS,
      detectTimeoutOutboundMs: config?.outboundDetectTimeoutMs || DETECT_TIMEOUT_MS,
      policies: {
        byPort: Object.entries(workload.servers).map(
          ([port, server]) => [Number(port), serverPolicy(server)] as const,
        ),
        fallback: serverPolicy(workload.defaultServer),
      },
      probes: workload.probes,
    },
  };
}

/** One that a newer destination knows and this agent does not is none. */
const accessLogFormat = (text: string | undefined): 'apache' | 'json' | '' =>
  text === 'apache' || text === 'json' ? text : '';

export function serverPolicy(server: Server | undefined): ServerPolicy {
  const kind = server?.protocol?.kind;
  if (server === undefined || kind === undefined) return closed;
  return {
    protocol: kind.$case,
    detectTimeoutMs: detectTimeoutMs(kind),
    authorizations: server.authorizations.flatMap((authz) => authorization(authz) ?? []),
    labels: prefixed('srv', server.labels),
  };
}

const detectTimeoutMs = (kind: NonNullable<ProxyProtocol['kind']>): number =>
  kind.$case === 'detect' && kind.detect.timeout !== undefined
    ? durationToMs(kind.detect.timeout)
    : DETECT_TIMEOUT_MS;

/** One that is not understood allows nobody. */
function authorization(authz: Authz): Authorization | undefined {
  const authentication = authenticationOf(authz.authentication);
  if (authentication === undefined) return undefined;
  const networks = authz.networks.flatMap((network) => {
    const net = networkFromWire(network.net);
    const except = network.except.map(networkFromWire);
    // An exception that cannot be read would let in whom it keeps out.
    if (net === undefined || except.includes(undefined)) return [];
    return [{ net, except: except.filter((one) => one !== undefined) }];
  });
  const { metadata } = authz;
  return {
    networks,
    authentication,
    labels: prefixed('authz', authz.labels),
    audit: metadata?.kind?.$case === 'default' && metadata.kind.default === 'audit',
  };
}

function authenticationOf(authn: Authn | undefined): Authorization['authentication'] | undefined {
  const permit = authn?.permit;
  if (permit === undefined) return undefined;
  if (permit.$case === 'unauthenticated') return { kind: 'unauthenticated' };
  const { clients } = permit.meshTls;
  if (clients === undefined) return undefined;
  if (clients.$case === 'unauthenticated') return { kind: 'tls-unauthenticated' };
  return {
    kind: 'tls',
    identities: clients.identities.identities.map((identity) => identity.name),
    suffixes: clients.identities.suffixes.map((suffix) => suffix.parts.join('.')),
  };
}

const prefixed = (prefix: string, labels: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(labels).map(([name, value]) => [`${prefix}_${name}`, value]));
