// SPDX-License-Identifier: Apache-2.0
// Short words for the OpenAPI schemas of CustomResourceDefinitions.

import type { TreeMap } from '../tree.ts';

export type Schema = TreeMap;

export const text = (more: Schema = {}): Schema => ({ type: 'string', ...more });
export const oneOf = (...allowed: readonly string[]): Schema => text({ enum: allowed });
export const flag = (more: Schema = {}): Schema => ({ type: 'boolean', ...more });
export const integer = (minimum: number, maximum?: number): Schema => ({
  type: 'integer',
  minimum,
  ...(maximum === undefined ? {} : { maximum }),
});
export const number = (more: Schema = {}): Schema => ({ type: 'number', ...more });
export const list = (items: Schema, more: Schema = {}): Schema => ({ type: 'array', items, ...more });
export const textMap: Schema = { type: 'object', additionalProperties: { type: 'string' } };
export const intOrText: Schema = { 'x-kubernetes-int-or-string': true };
/** Looked at by the webhook only: schemas cannot refer to themselves. */
export const open: Schema = { type: 'object', 'x-kubernetes-preserve-unknown-fields': true };

/** A name that ends with "!" is required. */
export function object(properties: Readonly<Record<string, Schema>>, more: Schema = {}): Schema {
  const plain = Object.entries(properties).map(([name, schema]): [string, Schema] => [
    name.replace(/!$/, ''),
    schema,
  ]);
  const required = Object.keys(properties)
    .filter((name) => name.endsWith('!'))
    .map((name) => name.slice(0, -1));
  return {
    type: 'object',
    ...(required.length > 0 ? { required } : {}),
    properties: Object.fromEntries(plain),
    ...more,
  };
}

/** Exactly one of these properties. */
export const exactlyOne = (...names: readonly string[]): Schema => ({
  oneOf: names.map((name) => ({ required: [name] })),
});

export const port = integer(1, 65535);
export const name = text({ minLength: 1, maxLength: 253 });

export const labelSelector = object({
  matchLabels: textMap,
  matchExpressions: list(
    object({
      'key!': text(),
      'operator!': oneOf('In', 'NotIn', 'Exists', 'DoesNotExist'),
      values: list(text()),
    }),
  ),
});

export const network = object({ 'cidr!': text(), except: list(text()) });

export const localTarget = object({
  group: text({ maxLength: 253 }),
  'kind!': text({ minLength: 1, maxLength: 63 }),
  'name!': name,
});

export const reference = object({
  group: text({ maxLength: 253 }),
  'kind!': text({ minLength: 1, maxLength: 63 }),
  name,
  namespace: text({ minLength: 1, maxLength: 63 }),
});

export const conditions = list(
  object({
    'type!': text(),
    'status!': oneOf('True', 'False', 'Unknown'),
    'lastTransitionTime!': text({ format: 'date-time' }),
    'reason!': text(),
    'message!': text(),
    observedGeneration: integer(0),
  }),
  { 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['type'] },
);
