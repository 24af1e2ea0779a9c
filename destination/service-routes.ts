// SPDX-License-Identifier: Apache-2.0
// Which routes hold for the clients of a service's port, as Linkerd's outbound index decides it: routes of the service's
// own namespace hold for everybody, those of another one for clients of that namespace only; where the same parent has
// GRPCRoutes, its HTTPRoutes do not count; the oldest comes first. A route with something in it that cannot be done is
// left out as a whole.

import type { AnyRoute, ResourceKey } from '#lib/registry/model.ts';
import { keyText } from '#lib/registry/model.ts';
import { type ClusterIndex, parentServices } from './cluster-index.ts';
import { routeProblem } from './route-message.ts';

export interface ServiceRoutes {
  readonly protocol: 'http' | 'grpc';
  readonly routes: readonly AnyRoute[];
}

/** Undefined: there are none, and everything goes to the service itself. */
export function serviceRoutes(
  index: ClusterIndex,
  service: ResourceKey,
  port: number,
  clientNamespace: string,
): ServiceRoutes | undefined {
  const attached = index
    .routes(service)
    .filter(({ metadata: { namespace } }) => namespace === service.namespace || namespace === clientNamespace)
    .filter((route) => routeProblem(route) === '');
  const parents = (route: AnyRoute): (number | undefined)[] => portsOf(route, service);
  const routes = attached.filter((route) =>
    parents(route).some(
      (own) =>
        (own === undefined || own === port) &&
        (route.kind === 'GRPCRoute' ||
          !attached.some((other) => other.kind === 'GRPCRoute' && parents(other).includes(own))),
    ),
  );
  if (routes.length === 0) return undefined;
  const grpc = routes.filter(({ kind }) => kind === 'GRPCRoute');
  // One protocol for a port: HTTPRoutes of the whole service give way to GRPCRoutes of this port.
  return grpc.length > 0
    ? { protocol: 'grpc', routes: grpc.sort(byAge) }
    : { protocol: 'http', routes: routes.sort(byAge) };
}

/** Of this service; undefined among them: all of its ports. */
const portsOf = (route: AnyRoute, service: ResourceKey): (number | undefined)[] =>
  parentServices(route)
    .filter(({ key }) => keyText(key) === keyText(service))
    .map(({ port }) => port);

function byAge({ metadata: a }: AnyRoute, { metadata: b }: AnyRoute): number {
  return (
    compare(a.creationTimestamp, b.creationTimestamp) ||
    compare(a.name, b.name) ||
    compare(a.namespace, b.namespace)
  );
}

const compare = (a: string, b: string): number => (a < b ? -1 : Number(a > b));
