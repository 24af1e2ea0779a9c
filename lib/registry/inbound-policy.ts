// SPDX-License-Identifier: Apache-2.0
// What Linkerd's default policies let in, as messages of linkerd2-proxy-api: one server for the ports that are
// like all others, one for each port that differs. Policy resources will replace single ports here.

import { durationOfMs } from '#lib/proto/durations.ts';
import { type PortRange, portsContain } from '#lib/core/addresses.ts';
import { networkToWire } from '#lib/proto/addresses.ts';
import type { Authn, Authz, Network, Server } from '#lib/proto/gen/linkerd/inbound.ts';
import type { InboundPolicy, MeshSettings } from './mesh-settings.ts';
import type { Pod } from './model.ts';
import { containerPortNames, containersOf, type WorkloadConfig } from './workload-config.ts';

export interface InboundServers {
  readonly byPort: ReadonlyMap<number, Server>;
  readonly fallback: Server;
  readonly warnings: readonly string[];
}

/** More single ports than this are not listed; their opaqueness still stands in the configuration. */
const PORTS_MAX = 4096;

/** Most pods say the same, which is nothing: they share one answer. */
const made = new WeakMap<MeshSettings, Map<string, InboundServers>>();
const SHARED_MAX = 1000;

/** What of a configuration it takes. */
export type InboundConfig = Pick<
  WorkloadConfig,
  'opaquePorts' | 'requireIdentityPorts' | 'defaultInboundPolicy' | 'inboundDetectTimeoutMs'
>;

export function inboundServers(config: InboundConfig, settings: MeshSettings): InboundServers {
  const shared = made.get(settings) ?? new Map<string, InboundServers>();
  made.set(settings, shared);
  const { opaquePorts, requireIdentityPorts, defaultInboundPolicy, inboundDetectTimeoutMs } = config;
  const key = JSON.stringify([
    opaquePorts,
    requireIdentityPorts,
    defaultInboundPolicy,
    inboundDetectTimeoutMs,
  ]);
  const known = shared.get(key);
  if (known !== undefined) return known;
  if (shared.size >= SHARED_MAX) shared.clear();
  const servers = makeServers(config, settings);
  shared.set(key, servers);
  return servers;
}

function makeServers(config: InboundConfig, settings: MeshSettings): InboundServers {
  const { opaquePorts, requireIdentityPorts } = config;
  const policy = config.defaultInboundPolicy;
  const make = (opaque: boolean, needsIdentity: boolean): Server =>
    defaultServer(
      needsIdentity ? authenticated(policy) : policy,
      opaque,
      config.inboundDetectTimeoutMs,
      settings,
    );
  // Shared by all ports that are alike.
  const plain = { opaque: make(true, false), detected: make(false, false) };
  const identified = { opaque: make(true, true), detected: make(false, true) };
  const byPort = new Map<number, Server>();
  const list = (ranges: readonly PortRange[]): boolean => {
    for (const port of portsOf(ranges)) {
      if (byPort.size >= PORTS_MAX && !byPort.has(port)) return false;
      const { opaque, detected } = portsContain(requireIdentityPorts, port) ? identified : plain;
      byPort.set(port, portsContain(opaquePorts, port) ? opaque : detected);
    }
    return true;
  };
  const identityListed = list(requireIdentityPorts);
  const opaqueListed = list(opaquePorts);
  const tooMany = `opaque-ports and proxy-require-identity-inbound-ports name more than ${PORTS_MAX} ports`;
  return {
    byPort,
    // Too many to list: fail closed, every other port needs an identity too.
    fallback: identityListed ? plain.detected : identified.detected,
    warnings: identityListed && opaqueListed ? [] : [tooMany],
  };
}

function* portsOf(ranges: readonly PortRange[]): Generator<number> {
  for (const range of ranges) for (let port = range.first; port <= range.last; port++) yield port;
}

const authenticated = (policy: InboundPolicy): InboundPolicy => {
  if (policy === 'all-unauthenticated' || policy === 'audit') return 'all-authenticated';
  return policy === 'cluster-unauthenticated' ? 'cluster-authenticated' : policy;
};

function defaultServer(
  policy: InboundPolicy,
  opaque: boolean,
  detectMs: number,
  settings: MeshSettings,
): Server {
  const timeout = durationOfMs(detectMs);
  return {
    protocol: {
      kind: opaque
        ? { $case: 'opaque', opaque: {} }
        : { $case: 'detect', detect: { timeout, httpRoutes: [] } },
    },
    serverIps: [],
    authorizations: authorizations(policy, settings),
    labels: labelsOf(policy),
  };
}

const labelsOf = (policy: InboundPolicy): Record<string, string> => ({
  group: '',
  kind: 'default',
  name: policy,
});

const unauthenticated: Authn = { permit: { $case: 'unauthenticated', unauthenticated: {} } };

/** Any identity: a suffix without parts. */
const anyIdentity: Authn = {
  permit: {
    $case: 'meshTls',
    meshTls: { clients: { $case: 'identities', identities: { identities: [], suffixes: [{ parts: [] }] } } },
  },
};

function authorizations(policy: InboundPolicy, settings: MeshSettings): Authz[] {
  if (policy === 'deny') return [];
  const inCluster = policy === 'cluster-authenticated' || policy === 'cluster-unauthenticated';
  const withIdentity = policy === 'all-authenticated' || policy === 'cluster-authenticated';
  return [
    {
      networks: inCluster ? networks(settings.clusterNetworks) : everywhere,
      authentication: withIdentity ? anyIdentity : unauthenticated,
      labels: labelsOf(policy),
      metadata: { kind: { $case: 'default', default: policy } },
    },
  ];
}

function networks(cidrs: readonly string[]): Network[] {
  return cidrs.flatMap((cidr) => {
    const net = networkToWire(cidr);
    return net === undefined ? [] : [{ net, except: [] }];
  });
}

export const everywhere: Network[] = networks(['0.0.0.0/0', '::/0']);

export interface WorkloadProbe {
  readonly port: number;
  readonly method: string;
  readonly path: string;
}

/** HTTP and gRPC probes of all containers: the kubelet has no identity, so exactly these requests are let in. */
export function probesOf(pod: Pod): WorkloadProbe[] {
  const named = containerPortNames(pod);
  const probes = new Map<string, WorkloadProbe>();
  for (const container of containersOf(pod)) {
    for (const probe of [container.livenessProbe, container.readinessProbe, container.startupProbe]) {
      const found =
        probe?.httpGet === undefined
          ? grpcProbe(probe?.grpc?.port)
          : httpProbe(probe.httpGet.port, probe.httpGet.path, named);
      if (found !== undefined) probes.set(`${found.method} ${found.port} ${found.path}`, found);
    }
  }
  return [...probes.values()];
}

function httpProbe(
  reference: number | string,
  path: string,
  named: ReadonlyMap<string, number>,
): WorkloadProbe | undefined {
  const port = typeof reference === 'number' ? reference : named.get(reference);
  if (port === undefined) return undefined;
  const withoutQuery = path.split('?')[0] ?? '/';
  return { port, method: 'GET', path: withoutQuery.startsWith('/') ? withoutQuery : `/${withoutQuery}` };
}

const grpcProbe = (port: number | undefined): WorkloadProbe | undefined =>
  port === undefined ? undefined : { port, method: 'POST', path: '/grpc.health.v1.Health/Check' };
