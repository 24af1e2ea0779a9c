// SPDX-License-Identifier: Apache-2.0
// Reads the Prometheus text format as far as the agents write it, and compares two readings. No HTTP, no history.

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly name: string;
  readonly labels: Labels;
  readonly value: number;
}

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?/y;

/** Samples of a text; lines that are none are left out. */
export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split('\n')) {
    const name = line.startsWith('#') ? undefined : NAME.exec(line)?.[0];
    if (name === undefined) continue;
    const labels: Record<string, string> = {};
    let at = name.length;
    if (line[at] === '{') {
      LABEL.lastIndex = at + 1;
      for (let match = LABEL.exec(line); match !== null; match = LABEL.exec(line)) {
        at = LABEL.lastIndex;
        labels[match[1] ?? ''] = (match[2] ?? '').replaceAll(/\\(.)/g, (_all, next: string) =>
          next === 'n' ? '\n' : next,
        );
      }
      if (Object.keys(labels).length === 0) at++;
      if (line[at] !== '}') continue;
      at++;
    }
    const word = line.slice(at).trim().split(' ')[0] ?? '';
    const value = word === '+Inf' ? Number.POSITIVE_INFINITY : Number(word);
    if (word !== '' && !Number.isNaN(value)) samples.push({ name, labels, value });
  }
  return samples;
}

/** What identifies a series, whatever the order of its labels. */
export const seriesKey = ({ name, labels }: Sample): string =>
  `${name}{${Object.entries(labels)
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    .sort()
    .join(',')}}`;

/** How much each series grew; one that fell began anew, as Prometheus reads it. */
export function growth(before: readonly Sample[], after: readonly Sample[]): Sample[] {
  const earlier = new Map(before.map((sample) => [seriesKey(sample), sample.value]));
  return after.map((sample) => {
    const from = earlier.get(seriesKey(sample)) ?? 0;
    return { ...sample, value: sample.value >= from ? sample.value - from : sample.value };
  });
}

/** The quantile of cumulative buckets, in a straight line within a bucket, as Prometheus' histogram_quantile. */
export function quantile(q: number, buckets: ReadonlyMap<number, number>): number | null {
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = q * total;
  let lower = 0;
  let below = 0;
  for (const [bound, count] of sorted) {
    if (count >= rank) {
      if (bound === Number.POSITIVE_INFINITY) return lower;
      return lower + (bound - lower) * (count === below ? 1 : (rank - below) / (count - below));
    }
    [lower, below] = [bound, count];
  }
  return lower;
}
