// SPDX-License-Identifier: Apache-2.0
// What the checks of all kinds share: schemas with messages for people, and how their findings are written.

import * as v from 'valibot';
import { parseNetwork } from '#lib/core/addresses.ts';

/** What is wrong: each with its field. */
export type Problems = readonly string[];

/** How a kind is judged. */
export interface Judgement {
  readonly problems: Problems;
  /** Shown to the person who applies it, who is not refused. */
  readonly warnings: readonly string[];
}

export const text = v.string('expected text');
export const name = v.pipe(v.string('expected a name'), v.nonEmpty('is empty'));
export const list = <const S extends v.GenericSchema>(item: S) => v.array(item, 'expected a list');

const cidr = v.pipe(
  v.string('expected a CIDR'),
  v.check((text) => parseNetwork(text) !== undefined, 'is no address and no CIDR'),
);

export const network = v.strictObject({ cidr, except: v.optional(list(cidr)) });

export const labelSelector = v.pipe(
  v.strictObject({
    matchLabels: v.optional(v.record(v.string(), text)),
    matchExpressions: v.optional(
      list(
        v.pipe(
          v.strictObject({
            key: name,
            operator: v.picklist(
              ['In', 'NotIn', 'Exists', 'DoesNotExist'],
              'expected In, NotIn, Exists or DoesNotExist',
            ),
            values: v.optional(list(text)),
          }),
          v.check(
            ({ operator, values }) => operator.endsWith('In') === (values ?? []).length > 0,
            'In and NotIn need values, Exists and DoesNotExist have none',
          ),
        ),
      ),
    ),
  }),
);

export const reference = v.strictObject({
  group: v.optional(text),
  kind: name,
  name: v.optional(text),
  namespace: v.optional(text),
});

/** One of the fields and no other of them. */
export const exactlyOne = <T extends object>(...fields: readonly string[]): v.CheckAction<T, string> =>
  v.check<T, string>(
    (object) => fields.filter((field) => field in object).length === 1,
    `needs exactly one of ${fields.join(' and ')}`,
  );

/** `spec.port: expected …`, and unknown fields by their name. */
export function problemsOf(schema: v.GenericSchema, spec: unknown): string[] {
  const result = v.safeParse(schema, spec);
  if (result.success) return [];
  return result.issues.map((issue) => {
    const path = ['spec', v.getDotPath(issue)].filter((part) => part !== null).join('.');
    const field = path.replaceAll(/\.(\d+)(?=\.|$)/g, '[$1]');
    if (issue.expected === 'never') return `${field}: there is no such field`;
    if (issue.received === 'undefined') return `${field}: is missing`;
    return `${field}: ${issue.message}`;
  });
}
