// SPDX-License-Identifier: Apache-2.0
// The specs of HTTPRoute (of the Gateway API and of policy.linkerd.io) and GRPCRoute, in Kubernetes' shape with its
// defaults filled in. Shapes only: what the mesh cannot do of them is found where routes are put to use.

import * as v from 'valibot';
import { listOf, portNumber } from './schema-parts.ts';

const text = v.string('expected text');
/** Longest of the Gateway API. */
const WEIGHT_MAX = 1_000_000;

const parentRef = v.object({
  group: v.nullish(text, 'gateway.networking.k8s.io'),
  kind: v.nullish(text, 'Gateway'),
  namespace: v.nullish(text),
  name: text,
  port: v.nullish(portNumber),
  sectionName: v.nullish(text),
});

const valueMatch = v.object({
  type: v.nullish(v.picklist(['Exact', 'RegularExpression'], 'expected Exact or RegularExpression'), 'Exact'),
  name: text,
  value: text,
});

const fields = listOf(v.object({ name: text, value: text }));
const fieldChanges = v.nullish(v.object({ add: fields, set: fields, remove: listOf(text) }));

/** What a filter does is told by `type`; those that are not known here have only that. */
const filter = v.object({
  type: text,
  requestHeaderModifier: fieldChanges,
  responseHeaderModifier: fieldChanges,
  requestRedirect: v.nullish(
    v.object({
      scheme: v.nullish(v.picklist(['http', 'https'], 'expected http or https')),
      hostname: v.nullish(text),
      port: v.nullish(portNumber),
      statusCode: v.nullish(v.number('expected a number'), 302),
      path: v.nullish(
        v.object({
          type: v.picklist(
            ['ReplaceFullPath', 'ReplacePrefixMatch'],
            'expected ReplaceFullPath or ReplacePrefixMatch',
          ),
          replaceFullPath: v.nullish(text),
          replacePrefixMatch: v.nullish(text),
        }),
      ),
    }),
  ),
});

const backendRef = v.object({
  group: v.nullish(text, ''),
  kind: v.nullish(text, 'Service'),
  namespace: v.nullish(text),
  name: text,
  port: v.nullish(portNumber),
  weight: v.nullish(
    v.pipe(
      v.number('expected a number'),
      v.integer('expected a whole number'),
      v.minValue(0, 'expected 0 or more'),
      v.maxValue(WEIGHT_MAX, `expected ${WEIGHT_MAX} or less`),
    ),
    1,
  ),
  filters: listOf(filter),
});

const httpMatch = v.object({
  path: v.nullish(
    v.object({
      type: v.nullish(
        v.picklist(
          ['Exact', 'PathPrefix', 'RegularExpression'],
          'expected Exact, PathPrefix or RegularExpression',
        ),
        'PathPrefix',
      ),
      value: v.nullish(text, '/'),
    }),
  ),
  headers: listOf(valueMatch),
  queryParams: listOf(valueMatch),
  method: v.nullish(
    v.picklist(
      ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'],
      'expected a method of HTTP in capitals',
    ),
  ),
});

const grpcMatch = v.object({
  method: v.nullish(
    v.object({
      type: v.nullish(
        v.picklist(['Exact', 'RegularExpression'], 'expected Exact or RegularExpression'),
        'Exact',
      ),
      service: v.nullish(text),
      method: v.nullish(text),
    }),
  ),
  headers: listOf(valueMatch),
});

const common = { parentRefs: listOf(parentRef), hostnames: listOf(text) };

export const httpRouteSpec = v.object(
  {
    ...common,
    rules: listOf(
      v.object({
        matches: listOf(httpMatch),
        filters: listOf(filter),
        backendRefs: listOf(backendRef),
        timeouts: v.nullish(v.object({ request: v.nullish(text), backendRequest: v.nullish(text) })),
      }),
    ),
  },
  'expected the spec of a route',
);

export const grpcRouteSpec = v.object(
  {
    ...common,
    rules: listOf(
      v.object({
        matches: listOf(grpcMatch),
        filters: listOf(filter),
        backendRefs: listOf(backendRef),
      }),
    ),
  },
  'expected the spec of a route',
);

export type RouteParentRef = v.InferOutput<typeof parentRef>;
export type RouteFilterSpec = v.InferOutput<typeof filter>;
export type RouteBackendRef = v.InferOutput<typeof backendRef>;
export type RouteValueMatch = v.InferOutput<typeof valueMatch>;
export type HttpRouteSpec = v.InferOutput<typeof httpRouteSpec>;
export type GrpcRouteSpec = v.InferOutput<typeof grpcRouteSpec>;
