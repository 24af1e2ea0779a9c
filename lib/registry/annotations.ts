// SPDX-License-Identifier: Apache-2.0
// Reads single annotations: a pod's own before its namespace's, and Go's forms of booleans and durations, as
// Linkerd's injector does. A value that cannot be read gives a warning and counts as not set.

import { parseNetwork } from '#lib/core/addresses.ts';
import type { ObjectMeta } from './model.ts';

/** The annotations of a pod over those of its namespace. */
export class AnnotationReader {
  readonly warnings: string[] = [];
  readonly #pod: Readonly<Record<string, string>>;
  readonly #namespace: Readonly<Record<string, string>>;

  constructor(pod: ObjectMeta, namespace: ObjectMeta | undefined) {
    this.#pod = pod.annotations;
    this.#namespace = namespace?.annotations ?? {};
  }

  /** An empty value on the pod counts as present: it blocks what the namespace says. */
  text(key: string): string | undefined {
    return this.#pod[key] ?? this.#namespace[key];
  }

  /** As `text`, read by `parse`; an empty value is as good as none. */
  read<T>(key: string, expected: string, parse: (text: string) => T | undefined): T | undefined {
    const text = this.text(key)?.trim() ?? '';
    if (text === '') return undefined;
    const value = parse(text);
    if (value === undefined) this.warn(key, text, `expected ${expected}`);
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    return this.read(key, 'true or false', parseGoBool) ?? fallback;
  }

  durationMs(key: string, fallback: number): number {
    const ms = this.read(key, 'a duration such as 500ms or 1m30s', parseGoDurationMs);
    return ms === undefined ? fallback : Math.round(ms);
  }

  warn(key: string, value: string, problem: string): void {
    this.warnings.push(`annotation ${key}="${value}": ${problem}`);
  }
}

const booleans: Readonly<Record<string, boolean>> = {
  '1': true,
  t: true,
  T: true,
  true: true,
  TRUE: true,
  True: true,
  '0': false,
  f: false,
  F: false,
  false: false,
  FALSE: false,
  False: false,
};

/** The words of Go's strconv.ParseBool. */
export const parseGoBool = (text: string): boolean | undefined =>
  Object.hasOwn(booleans, text) ? booleans[text] : undefined;

const unitMs: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** The form of Go's time.ParseDuration, without negative values; the largest is what a timer can wait. */
export function parseGoDurationMs(text: string): number | undefined {
  if (text === '0') return 0;
  if (!/^\+?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, number = '', unit = ''] of text.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g)) {
    total += Number(number) * (unitMs[unit] ?? 0);
  }
  return Math.min(total, LONGEST_MS);
}

/** What setTimeout can wait, 24.8 days: stands for "no timeout". */
export const LONGEST_MS = 0x7fff_ffff;

/** CIDRs or single addresses; a bad item is reported and left out. */
export function parseSubnets(text: string, onBad: (item: string) => void): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => {
      if (item === '') return false;
      const good = parseNetwork(item) !== undefined;
      if (!good) onBad(item);
      return good;
    });
}
