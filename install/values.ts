// SPDX-License-Identifier: Apache-2.0
// The values of an installation: defaults, merging as Helm does it, the check of everything that a person wrote.

import * as v from 'valibot';
import { MeshError } from '#lib/core/errors.ts';
import type { Plain } from './render-objects.ts';
import type { Field, ValuesModel, ValuesTable } from './value-fields.ts';
import { controlPlaneValues, privatePaths } from './values-table.ts';

export interface ValuesMap {
  readonly [key: string]: unknown;
}

/** Every value of the table, checked. */
export type Values = ValuesMap & { readonly __checked?: never };

const isMap = (value: unknown): value is ValuesMap =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Later wins; maps merge, lists and all else replace; null takes a key away. */
export function mergeValues(base: ValuesMap, over: ValuesMap): ValuesMap {
  const merged: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key];
    if (value === null) delete merged[key];
    else merged[key] = isMap(value) && isMap(below) ? mergeValues(below, value) : value;
  }
  return merged;
}

/** `{ a: { b: 1 } }` from `a.b` and 1. */
export const valuesOf = (path: string, value: unknown): ValuesMap =>
  path.split('.').reduceRight<unknown>((inner, step) => ({ [step]: inner }), value) as ValuesMap;

const defaultsOf = ({ fields }: ValuesModel): ValuesMap =>
  [...fields].reduce<ValuesMap>(
    (all, [path, { default: fallback }]) => mergeValues(all, valuesOf(path, fallback)),
    {},
  );

export const defaultValues: ValuesMap = defaultsOf(controlPlaneValues);

export function lookUp(values: ValuesMap, path: string): unknown {
  return path.split('.').reduce<unknown>((at, step) => (isMap(at) ? at[step] : undefined), values);
}

export function valueAt(values: Values, path: string): Plain {
  return lookUp(values, path) as Plain;
}

export function textAt(values: ValuesMap, path: string): string {
  const found = lookUp(values, path);
  return typeof found === 'string' ? found : '';
}

export interface CheckedValues {
  readonly values: Values;
  /** Values that were given but mean nothing here. */
  readonly ignored: readonly string[];
}

/** `values` over the defaults; every mistake is told at once. */
export function checkValues(values: ValuesMap, model: ValuesModel = controlPlaneValues): CheckedValues {
  const problems: string[] = [];
  const ignored: string[] = [];
  const checked = checkMap(mergeValues(defaultsOf(model), values), model.table, '', {
    problems,
    ignored,
    ignoredKeys: model.ignoredKeys,
  });
  if (problems.length > 0) {
    throw new MeshError('MESH_CONFIG_INVALID', problems.join('; '), {
      remedy: `correct it in --set or the file of -f; ${model.page} lists every value`,
    });
  }
  return { values: checked, ignored };
}

function checkMap(
  map: ValuesMap,
  table: ValuesTable,
  prefix: string,
  found: {
    readonly problems: string[];
    readonly ignored: string[];
    readonly ignoredKeys: readonly string[];
  },
): ValuesMap {
  const checked: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(map)) {
    const path = `${prefix}${key}`;
    const entry = Object.hasOwn(table, key) ? table[key] : undefined;
    if (entry === undefined) {
      if (found.ignoredKeys.includes(path) || found.ignoredKeys.includes(`${prefix}*`))
        found.ignored.push(path);
      else found.problems.push(`${path}: there is no such value${suggestion(key, Object.keys(table))}`);
    } else if ('isPrivate' in entry) {
      found.problems.push(...problemsOf(path, entry as Field, value));
      checked[key] = value;
    } else if (isMap(value)) {
      checked[key] = checkMap(value, entry as ValuesTable, `${path}.`, found);
    } else {
      found.problems.push(`${path}: expected a map with ${Object.keys(entry).join(', ')}`);
    }
  }
  for (const [key, entry] of Object.entries(table)) {
    if (Object.hasOwn(map, key)) continue;
    // Taken away by null.
    found.problems.push(
      `${prefix}${key}: is missing${'isPrivate' in entry ? `; the default is ${JSON.stringify(entry.default)}` : ''}`,
    );
  }
  return checked;
}

function problemsOf(path: string, field: Field, value: unknown): string[] {
  const result = v.safeParse(field.type.schema, value);
  if (result.success) return [];
  const shown = field.isPrivate ? 'what was given' : JSON.stringify(value);
  return result.issues.slice(0, 1).map(({ message }) => `${path}: ${shown} cannot be used, ${message}`);
}

function suggestion(key: string, known: readonly string[]): string {
  const lower = key.toLowerCase();
  const near = known.find((name) => distance(name.toLowerCase(), lower) <= 2);
  return near === undefined ? '' : `, did you mean ${near}?`;
}

/** How many letters have to change, as far as 3. */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return 3;
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        (row[j] ?? 0) + 1,
        (next[j - 1] ?? 0) + 1,
        (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    }
    row = next;
  }
  return row[b.length] ?? 3;
}

/** What ConfigMap linkerd-config keeps: everything but private keys, with the trust domain filled in. */
export function storedValues(values: Values): ValuesMap {
  const without = privatePaths.reduce<ValuesMap>(
    (all, path) => mergeValues(all, valuesOf(path, null)),
    values,
  );
  return { ...without, identityTrustDomain: trustDomainOf(values) };
}

export const trustDomainOf = (values: Values): string => {
  const given = textAt(values, 'identityTrustDomain');
  return given === '' ? textAt(values, 'clusterDomain') : given;
};

/** What differs from the defaults, so that an upgrade takes over the new defaults of all else. */
export function overridesOf(values: ValuesMap, base: ValuesMap = defaultValues): ValuesMap {
  const differing: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(values)) {
    const below = base[key];
    if (isMap(value) && isMap(below)) {
      const inner = overridesOf(value, below);
      if (Object.keys(inner).length > 0) differing[key] = inner;
    } else if (JSON.stringify(value) !== JSON.stringify(below)) differing[key] = value;
  }
  // An entry of a map that was taken away.
  for (const key of Object.keys(base)) if (!Object.hasOwn(values, key)) differing[key] = null;
  return differing;
}
