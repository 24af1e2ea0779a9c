// SPDX-License-Identifier: Apache-2.0
// The spec of ServiceProfile in Kubernetes' shape. Conditions nest and are read where they are put to use.

import * as v from 'valibot';
import { listOf } from './schema-parts.ts';

const text = v.string('expected text');
const flag = v.nullish(v.boolean('expected true or false'), false);

export const serviceProfileSpec = v.looseObject(
  {
    routes: listOf(
      v.looseObject({
        name: text,
        condition: v.unknown(),
        timeout: v.nullish(text),
        isRetryable: flag,
        responseClasses: listOf(v.looseObject({ condition: v.unknown(), isFailure: flag })),
      }),
    ),
    retryBudget: v.nullish(
      v.looseObject({
        retryRatio: v.number('expected a number'),
        minRetriesPerSecond: v.number('expected a number'),
        ttl: text,
      }),
    ),
    dstOverrides: listOf(
      v.looseObject({ authority: text, weight: v.union([v.number(), v.string()], 'expected a quantity') }),
    ),
  },
  'expected the spec of a ServiceProfile',
);

export type ServiceProfileSpec = v.InferOutput<typeof serviceProfileSpec>;
