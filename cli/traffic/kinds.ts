// SPDX-License-Identifier: Apache-2.0
// Words of the command line for resources: `deploy`, `deploy/web`, `deploy web cart`, `deploy/web po/cart-0`.
// Linkerd's grammar, as far as its kinds have traffic of their own.

import { Refusal } from '../install/refusal.ts';

export interface TrafficKind {
  readonly name: string;
  /** Stands before names where several kinds are printed. */
  readonly prefix: string;
  readonly words: readonly string[];
  /** What the kind is called in labels of series. */
  readonly label: string;
  /** Of the API, without the namespace: `/apis/apps/v1` and `deployments`. */
  readonly group: string;
  readonly plural: string;
}

const kind = (name: string, shorts: readonly string[], group: string, label = name): TrafficKind => ({
  name,
  prefix: shorts[0] ?? name,
  words: [...shorts, name, `${name}s`],
  label,
  group,
  plural: `${name}s`,
});

const CORE = '/api/v1';
const APPS = '/apis/apps/v1';
const BATCH = '/apis/batch/v1';

/** In the order in which they are printed. */
export const trafficKinds: readonly TrafficKind[] = [
  kind('cronjob', ['cj'], BATCH),
  kind('daemonset', ['ds'], APPS),
  kind('deployment', ['deploy'], APPS),
  kind('job', [], BATCH, 'k8s_job'),
  kind('namespace', ['ns'], CORE),
  kind('pod', ['po'], CORE),
  kind('replicaset', ['rs'], APPS),
  kind('replicationcontroller', ['rc'], CORE),
  kind('service', ['svc'], CORE),
  kind('statefulset', ['sts'], APPS),
];

export interface Target {
  readonly kind: TrafficKind;
  /** Empty: all. */
  readonly names: readonly string[];
}

export const isNamespace = ({ name }: TrafficKind): boolean => name === 'namespace';
export const isService = ({ name }: TrafficKind): boolean => name === 'service';

/** The arguments of a command, one target for each kind, in the order in which they are printed. */
export function parseTargets(words: readonly string[]): readonly Target[] {
  const [first = '', ...others] = words;
  if (first === '') throw new Refusal(`No resource arguments provided; write one of ${KINDS} or all`);
  if (words.includes('all')) {
    if (others.length > 0)
      throw new Refusal("'all' can't be supplied alongside other resources; write it alone");
    return trafficKinds.filter((one) => !isNamespace(one)).map((one) => ({ kind: one, names: [] }));
  }
  // `deploy web cart`: the first is the kind of all.
  const pairs =
    first.includes('/') || others.length === 0
      ? words.map(parsePair)
      : others.map((name) => parsePair(`${first}/${name}`));
  const texts = pairs.map(({ kind: { name }, names }) => `${name}/${names.join('')}`);
  const twice = texts.find((text, at) => texts.indexOf(text) !== at);
  if (twice !== undefined) throw new Refusal(`cannot supply duplicate resources; write ${twice} once`);
  return trafficKinds.flatMap((one) => {
    const own = pairs.filter((pair) => pair.kind === one);
    if (own.length === 0) return [];
    const all = own.some(({ names }) => names.length === 0);
    return [{ kind: one, names: all ? [] : own.flatMap(({ names }) => names) }];
  });
}

/** `deploy` or `deploy/web`, as --to and --from take them. */
export function parsePair(text: string): Target {
  const [word = '', name = '', ...rest] = text.split('/');
  if (rest.length > 0)
    throw new Refusal(`Invalid resource string: ${text}; write TYPE or TYPE/NAME, such as deploy/web`);
  const found = trafficKinds.find(({ words }) => words.includes(word));
  if (found === undefined)
    throw new Refusal(
      `cannot find Kubernetes canonical name from friendly name [${word}]; write one of ${KINDS}`,
    );
  return { kind: found, names: name === '' ? [] : [name] };
}

const KINDS = trafficKinds.map(({ prefix }) => prefix).join(', ');
