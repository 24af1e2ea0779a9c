// SPDX-License-Identifier: Apache-2.0
// Reads OpenMetrics 1.0.0 as strictly as the specification is: what is wrong with a text, a line each; nothing if all is
// well. Only the types that an agent has: counter, gauge, histogram.

interface Family {
  readonly name: string;
  type: string | undefined;
  hasHelp: boolean;
  samples: number;
}

interface Histogram {
  readonly bounds: number[];
  readonly counts: number[];
  sum: number | undefined;
  count: number | undefined;
}

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const METADATA = new RegExp(`^# (HELP|TYPE|UNIT) (${NAME}) (.*)$`);
const SAMPLE = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (\\S+)$`);
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,(?=[a-zA-Z_])|$)/y;
const NUMBER = /^(NaN|[+-]Inf|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)$/;
const ENDINGS: Readonly<Record<string, readonly string[]>> = {
  counter: ['_total'],
  gauge: [''],
  histogram: ['_bucket', '_count', '_sum'],
};

const toNumber = (text: string): number => Number(text.replace(/Inf$/, 'Infinity'));

function readLabels(text: string): Map<string, string> | string {
  const labels = new Map<string, string>();
  LABEL.lastIndex = 0;
  while (LABEL.lastIndex < text.length) {
    const match = LABEL.exec(text);
    if (match === null) return 'labels that cannot be read';
    const [, name = '', value = ''] = match;
    if (labels.has(name)) return `the label ${name} twice`;
    labels.set(name, value);
  }
  return labels;
}

export function openMetricsFaults(text: string): string[] {
  const faults: string[] = [];
  if (!text.endsWith('# EOF\n')) faults.push('it does not end with # EOF');
  const families = new Map<string, Family>();
  const series = new Set<string>();
  /** By family, then by labels without `le`. */
  const histograms = new Map<string, Map<string, Histogram>>();
  let family: Family | undefined;
  let group = '';
  const groups = new Set<string>();

  const enter = (name: string, fault: (what: string) => void): Family => {
    if (family?.name === name) return family;
    if (families.has(name)) fault(`the family ${name} is not in one place`);
    const entered = families.get(name) ?? { name, type: undefined, hasHelp: false, samples: 0 };
    families.set(name, entered);
    return entered;
  };

  const readMetadata = (match: RegExpExecArray, fault: (what: string) => void): void => {
    const [, kind, name = '', rest = ''] = match;
    family = enter(name, fault);
    if (family.samples > 0) fault('metadata behind samples');
    if (kind === 'HELP') {
      if (family.hasHelp) fault('HELP twice');
      if (/\\(?![\\n"])/.test(rest)) fault('a help text that is not escaped');
      family.hasHelp = true;
    } else if (kind === 'TYPE') {
      if (family.type !== undefined) fault('TYPE twice');
      if (ENDINGS[rest] === undefined) fault(`the type ${rest}`);
      if (rest === 'counter' && name.endsWith('_total')) fault('a counter named with its ending');
      family.type = rest;
    }
  };

  const readSample = (match: RegExpExecArray, fault: (what: string) => void): void => {
    const [, name = '', inBraces = '', written = ''] = match;
    const { type = '' } = family ?? {};
    const ending = (ENDINGS[type] ?? []).find((one) => name === `${family?.name}${one}`);
    if (family === undefined || ending === undefined) {
      fault('a sample that is not of the family before it');
      return;
    }
    family.samples++;
    const labels = readLabels(inBraces);
    if (typeof labels === 'string') {
      fault(labels);
      return;
    }
    if (!NUMBER.test(written)) fault('a value that is no number');
    const value = toNumber(written);
    const sorted = [...labels].sort(([a], [b]) => (a < b ? -1 : 1));
    const key = `${name}${JSON.stringify(sorted)}`;
    if (series.has(key)) fault('a series twice');
    series.add(key);
    if (type !== 'gauge' && !(value >= 0)) fault(`a ${type} below 0`);
    if (type !== 'histogram') {
      if (labels.has('le')) fault('a label that is reserved for histograms');
      return;
    }
    const own = JSON.stringify(sorted.filter(([label]) => label !== 'le'));
    const nowIn = `${family.name}${own}`;
    if (nowIn !== group) {
      if (groups.has(nowIn)) fault('the samples of a histogram are not in one place');
      groups.add(nowIn);
      group = nowIn;
    }
    const all = histograms.get(family.name) ?? new Map<string, Histogram>();
    histograms.set(family.name, all);
    const histogram = all.get(own) ?? { bounds: [], counts: [], sum: undefined, count: undefined };
    all.set(own, histogram);
    const le = labels.get('le');
    if ((ending === '_bucket') !== (le !== undefined)) fault('`le` belongs to buckets, to all of them');
    if (ending === '_sum') histogram.sum = value;
    else if (ending === '_count') histogram.count = value;
    else {
      if (!NUMBER.test(le ?? '')) fault('`le` is no number');
      histogram.bounds.push(toNumber(le ?? ''));
      histogram.counts.push(value);
    }
  };

  text
    .replace(/# EOF\n$/, '')
    .split('\n')
    .slice(0, -1)
    .forEach((line, index) => {
      const fault = (what: string): void => void faults.push(`line ${index + 1}, ${what}: ${line}`);
      const metadata = METADATA.exec(line);
      const sample = SAMPLE.exec(line);
      if (metadata !== null) readMetadata(metadata, fault);
      else if (sample !== null) readSample(sample, fault);
      else fault('neither metadata nor a sample');
    });

  for (const { name, type, hasHelp, samples } of families.values()) {
    if (type === undefined || !hasHelp) faults.push(`${name} has no TYPE or no HELP`);
    if (samples === 0) faults.push(`${name} has no samples`);
    for (const ending of ENDINGS[type ?? ''] ?? []) {
      if (ending !== '' && families.has(`${name}${ending}`)) faults.push(`${name}${ending} means two things`);
    }
  }
  for (const [name, all] of histograms) {
    for (const [labels, { bounds, counts, sum, count }] of all) {
      const rises = (numbers: readonly number[], strictly: boolean): boolean =>
        numbers.every((one, at) => at === 0 || (strictly ? one > numbers[at - 1]! : one >= numbers[at - 1]!));
      const fault = (what: string): void => void faults.push(`${name}${labels}: ${what}`);
      if (!rises(bounds, true)) fault('buckets out of order');
      if (!rises(counts, false)) fault('buckets that are not cumulative');
      if (bounds.at(-1) !== Infinity) fault('no bucket +Inf');
      if (sum === undefined || count === undefined) fault('no sum or no count');
      if (count !== counts.at(-1)) fault('the count is not what the bucket +Inf has');
    }
  }
  return faults;
}
