// SPDX-License-Identifier: Apache-2.0
// OutboundPolicies: the routes of a service's port as a client's namespace sees them, sent whole, and again whenever
// they, their services or their backends change. A service without routes has the default one.

import type { EncodedMessage, ServerStream } from '#lib/grpc/call.ts';
import { OutboundPolicy, type ProxyProtocol, type TrafficSpec } from '#lib/proto/gen/linkerd/outbound.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import type { AnyRoute, ResourceKey } from '#lib/registry/model.ts';
import type { RouteBackendRef } from '#lib/registry/route-schema.ts';
import { accrualMessage, balancer } from './backend-message.ts';
import { clientPolicy } from './client-policy.ts';
import type { Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { detect, httpRoute, opaque, outside, undefinedPort } from './default-policy.ts';
import type { LookupContext } from './get.ts';
import { outboundTarget, type Target } from './outbound-target.ts';
import {
  type Asker,
  grpcRouteMessage,
  httpRouteMessage,
  type ResolvedBackend,
  type RouteContext,
} from './route-message.ts';
import { hasPort, serviceProtocol } from './service-protocol.ts';
import { serviceRoutes } from './service-routes.ts';
import { sharedMessage } from './shared-message.ts';
import { StreamState } from './stream-state.ts';

export function serveWatch(
  context: LookupContext,
  request: TrafficSpec,
  call: ServerStream<OutboundPolicy>,
  token: ContextToken,
  asker: Asker,
): void {
  const lookup = policyLookup(context, request, token, asker);
  let sent: EncodedMessage | undefined;
  const state = new StreamState<OutboundPolicy>({
    index: context.index,
    stream: call,
    difference: () => {
      const { policy, topics } = lookup();
      state.follow(topics);
      const now = sharedMessage(OutboundPolicy.encode(policy).finish());
      if (sent !== undefined && now.equals(sent)) return [];
      sent = now;
      return [now];
    },
  });
  state.refresh();
}

/** The policy as it is now. */
export const outboundPolicy = (
  context: LookupContext,
  request: TrafficSpec,
  token: ContextToken,
  asker: Asker,
): OutboundPolicy => policyLookup(context, request, token, asker)().policy;

interface Found {
  readonly policy: OutboundPolicy;
  /** What it may change with. */
  readonly topics: readonly Topic[];
}

function policyLookup(
  context: LookupContext,
  request: TrafficSpec,
  token: ContextToken,
  asker: Asker,
): () => Found {
  const find = outboundTarget(context, request);
  return () => {
    const { target, topics } = find();
    if (target.kind === 'outside') return { policy: outside(target.address), topics };
    const found = servicePolicy(context, target, token, asker);
    return { policy: found.policy, topics: [...topics, ...found.topics] };
  };
}

function servicePolicy(
  context: LookupContext,
  { key, service, port, byAddress }: Target & { kind: 'service' },
  token: ContextToken,
  asker: Asker,
): Found {
  const { index, settings, cluster } = context;
  const metadata = referenceTo('core', 'Service', key, port);
  if (byAddress && service !== undefined && !hasPort(service, port)) {
    return { policy: undefinedPort(metadata), topics: [] };
  }
  const backends = new Map<string, Topic>();
  const authorityOf = ({ name, namespace }: ResourceKey, ofPort: number): string =>
    `${name}.${namespace}.svc.${settings.clusterDomain}:${ofPort}`;
  const resolve = (route: AnyRoute, ref: RouteBackendRef): ResolvedBackend => {
    const backend = { cluster, namespace: ref.namespace ?? route.metadata.namespace, name: ref.name };
    const reference = referenceTo(ref.group === '' ? 'core' : ref.group, ref.kind, backend, ref.port ?? 0);
    if (ref.kind !== 'Service' || (ref.group !== '' && ref.group !== 'core')) {
      return { problem: `unsupported backend type ${ref.group} ${ref.kind}`, reference };
    }
    backends.set(`${backend.namespace}/${backend.name}`, { kind: 'service', key: backend });
    if (ref.port === null || ref.port === undefined) {
      return { problem: `missing port for backend Service ${ref.name}`, reference };
    }
    const found = index.service(backend);
    return found === undefined || found.spec.type === 'ExternalName'
      ? { problem: `Service not found ${ref.name}`, reference }
      : { authority: authorityOf(backend, ref.port), reference };
  };
  const routeContext: RouteContext = {
    resolve,
    asker,
    parent: { authority: authorityOf(key, port), reference: metadata },
    policy: service === undefined ? {} : clientPolicy(service.metadata, settings.allowL5dRequestHeaders),
  };
  const kind = protocolOf({
    spoken: service === undefined ? 'detect' : serviceProtocol(context, service, port),
    found: serviceRoutes(index, key, port, token.ns),
    own: balancer(metadata, authorityOf(key, port)),
    context: routeContext,
  });
  return { policy: { protocol: { kind }, metadata }, topics: [...backends.values()] };
}

interface Spoken {
  readonly spoken: ReturnType<typeof serviceProtocol>;
  readonly found: ReturnType<typeof serviceRoutes>;
  /** The service itself. */
  readonly own: ReturnType<typeof balancer>;
  readonly context: RouteContext;
}

/** What the service says of its port comes first, then what its routes are for. */
function protocolOf({ spoken, found, own, context }: Spoken): NonNullable<ProxyProtocol['kind']> {
  const { policy } = context;
  if (spoken === 'opaque') return opaque(own);
  const failureAccrual = accrualMessage(policy);
  if (found?.protocol === 'grpc' && spoken !== 'http1') {
    const routes = found.routes.flatMap((route) =>
      route.kind === 'GRPCRoute' ? [grpcRouteMessage(route, context)] : [],
    );
    return { $case: 'grpc', grpc: { routes, failureAccrual } };
  }
  const attached = found?.routes.flatMap((route) =>
    route.kind === 'GRPCRoute' ? [] : [httpRouteMessage(route, context)],
  );
  const routes = attached?.length ? attached : [httpRoute('http', own, policy)];
  if (spoken === 'http1') return { $case: 'http1', http1: { routes, failureAccrual } };
  if (spoken === 'http2') return { $case: 'http2', http2: { routes, failureAccrual } };
  return detect(routes, own, policy);
}

const referenceTo = (
  group: string,
  kind: string,
  { namespace, name }: ResourceKey,
  port: number,
): Metadata => ({
  kind: { $case: 'resource', resource: { group, kind, name, namespace, section: '', port } },
});
