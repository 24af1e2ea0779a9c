// SPDX-License-Identifier: Apache-2.0
// The routes of a default server, as messages of linkerd2-proxy-api: one for every request, and one for the kubelet's
// probes, which have no identity and are let in by exact path.

import { everyRequest } from '#lib/proto/every-request.ts';
import { HttpMethod_Registered } from '#lib/proto/gen/linkerd/http_types.ts';
import type { HttpRoute, Server } from '#lib/proto/gen/linkerd/inbound.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import { everywhere, type InboundServers, type WorkloadProbe } from './inbound-policy.ts';

const named = (name: string): Metadata => ({ kind: { $case: 'default', default: name } });

/** Whom it lets in is the server's to say. */
const defaultRoute: HttpRoute = {
  metadata: named('default'),
  hosts: [],
  authorizations: [],
  rules: [{ matches: [everyRequest] }],
};

export function serverWithRoutes(
  probes: readonly WorkloadProbe[],
  { byPort, fallback }: InboundServers,
  port: number,
): Server {
  const server = byPort.get(port) ?? fallback;
  const kind = server.protocol?.kind;
  if (kind?.$case !== 'detect') return server;
  const paths = probes
    .filter((probe) => probe.port === port && probe.method === 'GET')
    .map(({ path }) => path)
    .sort();
  const httpRoutes = [defaultRoute, ...(paths.length === 0 ? [] : [probeRoute(paths)])];
  return { ...server, protocol: { kind: { $case: 'detect', detect: { ...kind.detect, httpRoutes } } } };
}

const probeRoute = (paths: readonly string[]): HttpRoute => ({
  metadata: named('probe'),
  hosts: [],
  authorizations: [
    {
      networks: everywhere,
      authentication: { permit: { $case: 'unauthenticated', unauthenticated: {} } },
      labels: { group: '', kind: 'default', name: 'probe' },
      metadata: named('probe'),
    },
  ],
  rules: [
    {
      matches: paths.map((path) => ({
        path: { kind: { $case: 'exact', exact: path } },
        headers: [],
        queryParams: [],
        method: { type: { $case: 'registered', registered: HttpMethod_Registered.GET } },
      })),
    },
  ],
});
