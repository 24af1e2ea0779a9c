// SPDX-License-Identifier: Apache-2.0
// OutboundPolicies: the routes of a service's port as a client's namespace sees them, sent whole, and again whenever
// they, their services or their backends change. A service without routes has the default one.

import type { ServerWritableStream } from '@grpc/grpc-js';
import { socketFromWire } from '#lib/proto/addresses.ts';
import { OutboundPolicy, type TrafficSpec } from '#lib/proto/gen/linkerd/outbound.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import type { AnyRoute, ResourceKey, Service } from '#lib/registry/model.ts';
import { keyOf } from '#lib/registry/model.ts';
import type { RouteBackendRef } from '#lib/registry/route-schema.ts';
import { parseAuthority } from './authority.ts';
import { clientPolicy } from './client-policy.ts';
import type { Topic } from './cluster-index.ts';
import type { ContextToken } from './context-token.ts';
import { type LookupContext, requireService } from './get.ts';
import {
  defaultRouteMessage,
  grpcRouteMessage,
  httpRouteMessage,
  type ResolvedBackend,
  type RouteContext,
} from './route-message.ts';
import { serviceRoutes } from './service-routes.ts';
import { CallError, status } from './status.ts';
import { StreamState } from './stream-state.ts';

export function serveWatch(
  context: LookupContext,
  call: ServerWritableStream<TrafficSpec, OutboundPolicy>,
  token: ContextToken,
): void {
  const lookup = policyLookup(context, call.request, token);
  let sent = '';
  const state = new StreamState<OutboundPolicy>({
    index: context.index,
    stream: call,
    difference: () => {
      const { policy, topics } = lookup();
      state.follow(topics);
      const encoded = Buffer.from(OutboundPolicy.encode(policy).finish()).toString('base64');
      if (encoded === sent) return [];
      sent = encoded;
      return [policy];
    },
  });
  state.refresh();
}

interface Found {
  readonly policy: OutboundPolicy;
  /** What it may change with. */
  readonly topics: readonly Topic[];
}

function policyLookup(context: LookupContext, request: TrafficSpec, token: ContextToken): () => Found {
  const { index, settings, cluster } = context;
  const { find, port } = target(context, request);
  return () => {
    const service = find();
    const { name, namespace } = service.metadata;
    const backends = new Map<string, Topic>();
    const topic = (key: ResourceKey): Topic => ({ kind: 'service', key });
    const authorityOf = (key: ResourceKey, backendPort: number): string =>
      `${key.name}.${key.namespace}.svc.${settings.clusterDomain}:${backendPort}`;
    const resolve = (route: AnyRoute, ref: RouteBackendRef): ResolvedBackend => {
      const key = { cluster, namespace: ref.namespace ?? route.metadata.namespace, name: ref.name };
      const reference = referenceTo(ref.group === '' ? 'core' : ref.group, ref.kind, key, ref.port ?? 0);
      if (ref.kind !== 'Service' || (ref.group !== '' && ref.group !== 'core')) {
        return { problem: `unsupported backend type ${ref.group} ${ref.kind}`, reference };
      }
      backends.set(`${key.namespace}/${key.name}`, topic(key));
      if (ref.port === null || ref.port === undefined) {
        return { problem: `missing port for backend Service ${ref.name}`, reference };
      }
      const found = index.service(key);
      return found === undefined || found.spec.type === 'ExternalName'
        ? { problem: `Service not found ${ref.name}`, reference }
        : { authority: authorityOf(key, ref.port), reference };
    };
    const reference = referenceTo('core', 'Service', { cluster, namespace, name }, port);
    const routeContext: RouteContext = {
      resolve,
      parent: { authority: authorityOf(keyOf(service), port), reference },
      policy: clientPolicy(service.metadata, settings.allowL5dRequestHeaders),
    };
    const found = serviceRoutes(index, service, port, token.ns);
    const protocol = protocolOf(found, routeContext);
    return {
      policy: { protocol, metadata: reference },
      topics: [topic(keyOf(service)), ...backends.values()],
    };
  };
}

function protocolOf(
  found: ReturnType<typeof serviceRoutes>,
  context: RouteContext,
): NonNullable<OutboundPolicy['protocol']> {
  if (found?.protocol === 'grpc') {
    const routes = found.routes.flatMap((route) =>
      route.kind === 'GRPCRoute' ? [grpcRouteMessage(route, context)] : [],
    );
    return { kind: { $case: 'grpc', grpc: { routes } } };
  }
  const routes = found?.routes.flatMap((route) =>
    route.kind === 'GRPCRoute' ? [] : [httpRouteMessage(route, context)],
  ) ?? [defaultRouteMessage(context)];
  const timeout = { seconds: 10n, nanos: 0 };
  return { kind: { $case: 'detect', detect: { timeout, http1: { routes }, http2: { routes } } } };
}

/** The service that is asked about, found anew each time. */
function target(
  { index, settings, cluster }: LookupContext,
  request: TrafficSpec,
): { readonly find: () => Service; readonly port: number } {
  const unknown = (what: string): never => {
    throw new CallError(status.NOT_FOUND, `no service at ${what}`);
  };
  switch (request.target?.$case) {
    case 'addr': {
      const address = socketFromWire(request.target.addr);
      if (address === undefined) throw new CallError(status.INVALID_ARGUMENT, 'no address');
      const find = (): Service => index.serviceOfIp(cluster, address.ip) ?? unknown(address.ip);
      return { find, port: address.port };
    }
    case 'authority': {
      const { authority } = request.target;
      let parsed: ReturnType<typeof parseAuthority>;
      try {
        parsed = parseAuthority(authority, settings.clusterDomain);
      } catch (error) {
        throw new CallError(status.INVALID_ARGUMENT, `Invalid authority: ${(error as Error).message}`);
      }
      if (parsed.kind === 'ip') return { find: () => unknown(authority), port: parsed.port };
      const key = { cluster, namespace: parsed.namespace, name: parsed.name };
      return { find: () => requireService(index, key), port: parsed.port };
    }
    case undefined:
      throw new CallError(status.INVALID_ARGUMENT, 'a policy is asked for by address or authority');
  }
}

const referenceTo = (
  group: string,
  kind: string,
  { namespace, name }: ResourceKey,
  port: number,
): Metadata => ({
  kind: { $case: 'resource', resource: { group, kind, name, namespace, section: '', port } },
});
