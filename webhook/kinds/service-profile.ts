// SPDX-License-Identifier: Apache-2.0
// ServiceProfile.

import * as v from 'valibot';
import { errorMessage } from '#lib/core/errors.ts';
import { linearRegExp } from '#lib/regexp/linear-regexp.ts';
import { parseGoDurationMs } from '#lib/registry/annotations.ts';
import { list, name, type Problems, problemsOf, text } from '../shapes.ts';

const DEPTH_MAX = 32;

const duration = v.pipe(
  text,
  v.check((value) => parseGoDurationMs(value) !== undefined, 'expected a duration such as 300ms or 1m30s'),
);
const status = v.pipe(
  v.number('expected a number'),
  v.check(
    (code) => code === 0 || (Number.isInteger(code) && code >= 100 && code <= 599),
    'expected a status from 100 to 599',
  ),
);

const spec = v.strictObject({
  routes: v.optional(
    list(
      v.strictObject({
        name,
        condition: v.unknown(),
        timeout: v.optional(duration),
        isRetryable: v.optional(v.boolean('expected true or false')),
        responseClasses: v.optional(
          list(
            v.strictObject({
              condition: v.unknown(),
              isFailure: v.optional(v.boolean('expected true or false')),
            }),
          ),
        ),
      }),
    ),
  ),
  retryBudget: v.optional(
    v.strictObject({
      retryRatio: v.pipe(v.number('expected a number'), v.minValue(0, 'must not be negative')),
      minRetriesPerSecond: v.pipe(
        v.number('expected a number'),
        v.integer('expected a whole number'),
        v.minValue(0, 'must not be negative'),
      ),
      ttl: duration,
    }),
  ),
  dstOverrides: v.optional(list(v.strictObject({ authority: name, weight: v.union([v.number(), text]) }))),
  opaquePorts: v.optional(list(text)),
});

interface Routes {
  readonly routes?: readonly {
    readonly condition?: unknown;
    readonly responseClasses?: readonly { readonly condition?: unknown }[];
  }[];
}

export function serviceProfileProblems(given: unknown): Problems {
  const problems = problemsOf(spec, given);
  if (problems.length > 0) return problems;
  for (const [index, route] of ((given as Routes).routes ?? []).entries()) {
    const at = `spec.routes[${index}]`;
    problems.push(...conditionProblems(route.condition, `${at}.condition`, request, 0));
    for (const [number, one] of (route.responseClasses ?? []).entries()) {
      problems.push(
        ...conditionProblems(one.condition, `${at}.responseClasses[${number}].condition`, response, 0),
      );
    }
  }
  return problems;
}

/** Of one without problems. */
export function serviceProfileWarnings(given: unknown): string[] {
  const fields = ['routes', 'retryBudget'].filter((field) => field in (given as object));
  if (fields.length === 0) return [];
  const named = fields.map((field) => `spec.${field}`).join(' and ');
  return [
    `only pods with Linkerd's proxy act on ${named}; pods under agents follow dstOverrides alone: use HTTPRoute or GRPCRoute for both`,
  ];
}

type Leaves = Readonly<Record<string, (value: unknown) => string | undefined>>;

const request: Leaves = {
  method: (value) => (typeof value === 'string' && value !== '' ? undefined : 'expected a method'),
  pathRegex(value) {
    if (typeof value !== 'string') return 'expected a regular expression';
    try {
      linearRegExp(value);
      return undefined;
    } catch (error) {
      return errorMessage(error);
    }
  },
};

const response: Leaves = {
  status(value) {
    const result = v.safeParse(v.strictObject({ min: v.optional(status), max: v.optional(status) }), value);
    if (!result.success) return result.issues[0].message;
    const { min = 0, max = 0 } = result.output;
    return min !== 0 && max !== 0 && max < min ? 'max is less than min' : undefined;
  },
};

/** all, any and not of conditions, and the leaves of requests or responses. */
function conditionProblems(given: unknown, at: string, leaves: Leaves, depth: number): string[] {
  if (depth > DEPTH_MAX) return [`${at}: conditions nest deeper than ${DEPTH_MAX}`];
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    return [`${at}: expected a condition`];
  const problems: string[] = [];
  for (const [field, value] of Object.entries(given)) {
    const leaf = Object.hasOwn(leaves, field) ? leaves[field] : undefined;
    const place = `${at}.${field}`;
    if (leaf !== undefined) {
      const problem = leaf(value);
      if (problem !== undefined) problems.push(`${place}: ${problem}`);
    } else if (field === 'not') problems.push(...conditionProblems(value, place, leaves, depth + 1));
    else if (field === 'all' || field === 'any') {
      if (!Array.isArray(value)) problems.push(`${place}: expected a list of conditions`);
      else {
        const items: readonly unknown[] = value;
        problems.push(
          ...items.flatMap((item, index) => conditionProblems(item, `${place}[${index}]`, leaves, depth + 1)),
        );
      }
    } else problems.push(`${place}: there is no such field`);
  }
  const known = ['all', 'any', 'not', ...Object.keys(leaves)];
  if (Object.keys(given).length === 0) problems.push(`${at}: needs one of ${known.join(', ')}`);
  return problems;
}
