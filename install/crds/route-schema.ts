// SPDX-License-Identifier: Apache-2.0
// The schema of policy.linkerd.io's HTTPRoute.

import {
  conditions,
  exactlyOne,
  integer,
  list,
  name,
  object,
  oneOf,
  port,
  type Schema,
  text,
} from './schema.ts';

const parentRef = object({
  group: text({ default: 'policy.linkerd.io', maxLength: 253 }),
  kind: text({ default: 'Server', minLength: 1, maxLength: 63 }),
  namespace: text({ minLength: 1, maxLength: 63 }),
  'name!': name,
  sectionName: text({ maxLength: 253 }),
  port,
});

const header = object({
  'name!': text({ minLength: 1, maxLength: 256 }),
  'value!': text({ maxLength: 4096 }),
});
const valueMatch = object({
  type: text({ enum: ['Exact', 'RegularExpression'], default: 'Exact' }),
  'name!': text({ minLength: 1, maxLength: 256 }),
  'value!': text({ minLength: 1, maxLength: 4096 }),
});

const headerChange = object({
  set: list(header, { maxItems: 16 }),
  add: list(header, { maxItems: 16 }),
  remove: list(text(), { maxItems: 16 }),
});

const filter = object({
  'type!': oneOf('RequestHeaderModifier', 'ResponseHeaderModifier', 'RequestRedirect'),
  requestHeaderModifier: headerChange,
  responseHeaderModifier: headerChange,
  requestRedirect: object({
    scheme: oneOf('http', 'https'),
    hostname: text({ minLength: 1, maxLength: 253 }),
    path: object(
      {
        'type!': oneOf('ReplaceFullPath', 'ReplacePrefixMatch'),
        replaceFullPath: text({ maxLength: 1024 }),
        replacePrefixMatch: text({ maxLength: 1024 }),
      },
      exactlyOne('replaceFullPath', 'replacePrefixMatch'),
    ),
    port,
    statusCode: { type: 'integer', enum: [301, 302, 303, 307, 308], default: 302 },
  }),
});

const filters = list(filter, { maxItems: 16 });

const match = object({
  path: object(
    {
      type: text({ enum: ['Exact', 'PathPrefix', 'RegularExpression'], default: 'PathPrefix' }),
      value: text({ maxLength: 1024, default: '/' }),
    },
    { default: { type: 'PathPrefix', value: '/' } },
  ),
  headers: list(valueMatch, { maxItems: 16 }),
  queryParams: list(valueMatch, { maxItems: 16 }),
  method: oneOf('GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'),
});

const backendRef = object({
  group: text({ default: '', maxLength: 253 }),
  kind: text({ default: 'Service', minLength: 1, maxLength: 63 }),
  'name!': name,
  namespace: text({ minLength: 1, maxLength: 63 }),
  port,
  weight: { ...integer(0, 1_000_000), default: 1 },
  filters,
});

export const httpRouteSpec = (withTimeouts: boolean): Schema =>
  object({
    parentRefs: list(parentRef, { maxItems: 32 }),
    hostnames: list(text({ minLength: 1, maxLength: 253 }), { maxItems: 16 }),
    rules: list(
      object({
        matches: list(match, { maxItems: 8 }),
        filters,
        backendRefs: list(backendRef, { maxItems: 16 }),
        ...(withTimeouts ? { timeouts: object({ request: text(), backendRequest: text() }) } : {}),
      }),
      { maxItems: 16 },
    ),
  });

export const routeStatus: Schema = object({
  'parents!': list(object({ 'controllerName!': text(), 'parentRef!': parentRef, conditions }), {
    maxItems: 32,
  }),
});
