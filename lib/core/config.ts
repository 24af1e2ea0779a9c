// SPDX-License-Identifier: Apache-2.0
// One table per program describes every setting; `loadConfig` is pure, so that tests pass maps. Help text and
// the reference pages are made from the same table.

import { MeshError } from './errors.ts';

export interface Setting<T> {
  /** Environment variable, for instance `NODEMESH_NODE_NAME`. */
  readonly env: string;
  /** Text used when the variable is unset; undefined makes the setting required. */
  readonly default: string | undefined;
  /** Returns the value, or throws an Error whose message says what is allowed. */
  readonly parse: (text: string) => T;
  readonly doc: string;
}

/** One row of a table; `fallback` undefined makes the setting required. */
export const setting = <T>(
  env: string,
  fallback: string | undefined,
  parse: (text: string) => T,
  doc: string,
): Setting<T> => ({ env, default: fallback, parse, doc });

export type SettingTable = Readonly<Record<string, Setting<unknown>>>;

export type ConfigOf<Table extends SettingTable> = {
  readonly [Key in keyof Table]: Table[Key] extends Setting<infer T> ? T : never;
};

/** Reads all settings and reports every mistake at once. */
export function loadConfig<Table extends SettingTable>(
  table: Table,
  env: Readonly<Record<string, string | undefined>>,
): ConfigOf<Table> {
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [key, setting] of Object.entries(table)) {
    const text = env[setting.env] ?? setting.default;
    if (text === undefined) {
      problems.push(`${setting.env} is not set (${setting.doc})`);
      continue;
    }
    try {
      values[key] = setting.parse(text);
    } catch (error) {
      problems.push(`${setting.env}="${text}": ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  if (problems.length > 0) throw new MeshError('MESH_CONFIG_INVALID', problems.join('; '));
  return Object.freeze(values) as ConfigOf<Table>;
}

/** Help text: one paragraph per setting. */
export function describeConfig(table: SettingTable): string {
  return Object.values(table)
    .map(
      (s) => `${s.env}${s.default === undefined ? ' (required)' : ` (default "${s.default}")`}\n    ${s.doc}`,
    )
    .join('\n');
}

export const asText = (text: string): string => text;

export function asInteger(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || value < minimum || value > maximum) {
      throw new Error(`expected a whole number from ${minimum} to ${maximum}`);
    }
    return value;
  };
}

export function asOneOf<const T extends string>(...allowed: readonly T[]): (text: string) => T {
  return (text) => {
    const found = allowed.find((value) => value === text);
    if (found === undefined) throw new Error(`expected one of ${allowed.join(', ')}`);
    return found;
  };
}

const DURATION_UNIT_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/**
 * `300ms`, `10s`, `5m`, `1h`, `1d`; several one after the other (`24h0m0s`) as Go writes them. A bare number is only
 * allowed if it is 0 (as linkerd2-proxy reads durations).
 */
export function asDurationMs(text: string): number {
  const trimmed = text.trim();
  if (/^0+$/.test(trimmed)) return 0;
  if (!/^(?:\d+(?:ms|s|m|h|d))+$/.test(trimmed))
    throw new Error('expected a duration such as 300ms, 10s or 5m');
  let total = 0;
  for (const [, value = '', unit = ''] of trimmed.matchAll(/(\d+)(ms|s|m|h|d)/g)) {
    total += Number(value) * (DURATION_UNIT_MS[unit] ?? 1);
  }
  return total;
}

/** Comma-separated list, white space trimmed, empty items dropped. */
export const asList = (text: string): readonly string[] =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');

/** `1.2.3.4:80` or `[::]:80`: where a server listens. */
export function asListen(text: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535) throw new Error('expected ip:port, such as [::]:8080');
  return { host, port };
}
