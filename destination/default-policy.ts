// SPDX-License-Identifier: Apache-2.0
// Outbound policies that need no routes: everything to a service, a port that the service does not have, and addresses
// outside the cluster.

import type { RequestPolicy } from '#lib/core/request-policy.ts';
import type { ClientPolicy } from '#lib/proto/client-policy.ts';
import { durationOfMs } from '#lib/proto/durations.ts';
import { everyRequest } from '#lib/proto/every-request.ts';
import type { Metadata } from '#lib/proto/gen/linkerd/meta.ts';
import type {
  Backend,
  HttpRoute,
  OpaqueRoute,
  OutboundPolicy,
  ProxyProtocol,
} from '#lib/proto/gen/linkerd/outbound.ts';
import { bareAddress, type EndpointAddress } from './addresses.ts';
import { accrualMessage, forward } from './backend-message.ts';
import { limitsMessage } from './route-message.ts';

type Kind = NonNullable<ProxyProtocol['kind']>;

const named = (name: string): Metadata => ({ kind: { $case: 'default', default: name } });

const DETECT_TIMEOUT = durationOfMs(10_000);

/** Every request to one backend. */
export const httpRoute = (name: string, backend: Backend, policy: RequestPolicy = {}): HttpRoute => ({
  metadata: named(name),
  hosts: [],
  rules: [
    {
      matches: [everyRequest],
      filters: [],
      backends: {
        kind: { $case: 'firstAvailable', firstAvailable: { backends: [{ backend, filters: [] }] } },
      },
      ...limitsMessage(policy),
    },
  ],
});

/** Every connection to one backend. */
const opaqueRoute = (name: string, backend: Backend): OpaqueRoute => ({
  metadata: named(name),
  rules: [
    {
      filters: [],
      backends: { kind: { $case: 'firstAvailable', firstAvailable: { backends: [{ backend }] } } },
    },
  ],
});

export const opaque = (backend: Backend): Kind => ({
  $case: 'opaque',
  opaque: { routes: [opaqueRoute('opaq', backend)] },
});

/** Requests by routes, whatever is no HTTP to the service itself. */
export function detect(routes: HttpRoute[], backend: Backend, policy: ClientPolicy): Kind {
  const http = { routes, failureAccrual: accrualMessage(policy) };
  return {
    $case: 'detect',
    detect: {
      timeout: DETECT_TIMEOUT,
      opaque: { routes: [opaqueRoute('opaq', backend)] },
      http1: http,
      http2: http,
    },
  };
}

/** A service without that port: nothing leads there. */
export const undefinedPort = (metadata: Metadata): OutboundPolicy => ({
  metadata,
  protocol: {
    kind: {
      $case: 'opaque',
      opaque: {
        routes: [
          {
            metadata: named('undefined-port'),
            rules: [
              {
                backends: { kind: { $case: 'empty', empty: {} } },
                filters: [{ kind: { $case: 'forbidden', forbidden: {} } }],
              },
            ],
          },
        ],
      },
    },
  },
});

/** No service, and no pod either: where it was sent to. */
export function outside(address: EndpointAddress): OutboundPolicy {
  const metadata = named('egress-fallback');
  const backend = forward(metadata, bareAddress(address));
  const http = { routes: [httpRoute('egress-fallback', backend)], failureAccrual: undefined };
  const routes = [opaqueRoute('egress-fallback', backend)];
  return {
    metadata,
    protocol: {
      kind: {
        $case: 'detect',
        detect: { timeout: DETECT_TIMEOUT, opaque: { routes }, http1: http, http2: http },
      },
    },
  };
}
