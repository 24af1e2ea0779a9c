// SPDX-License-Identifier: Apache-2.0
// Reads the catalogues of test/conformance/catalogue: scenarios that others test or that follow from their behaviour, in
// our words, each with what is made of it here. Plain text, so that a scenario is a line and a test's name stands as in
// its source:
//
//   # Title of the source                  > a line of introduction
//   ## Group                               every scenario needs a test or a reason
//   ## Group (open)                        scenarios may still be planned or missing
//   planned: for what                      directly under a group: where nothing else is said
//   AMB-001 What happens, and what must be seen.
//     test test/cni/plugin.test.ts: name of a test or suite, ${…} for what is computed
//     different: the sentence that it follows instead
//     not applicable: why
//     planned: for what
//
// A test whose name begins with the id needs no line here.

import { readFileSync } from 'node:fs';
import { type ProxyVerdict, proxyVerdicts } from '../../test/conformance/catalogue/proxy-verdicts.ts';

export interface NamedTest {
  readonly file: string;
  readonly name: string;
}

export interface Scenario {
  readonly id: string;
  readonly wording: string;
  readonly tests: readonly NamedTest[];
  readonly reason?: { readonly kind: 'different' | 'not applicable' | 'planned'; readonly text: string };
}

export interface ScenarioGroup {
  readonly title: string;
  /** Scenarios without a test or a reason are allowed for now. */
  readonly open: boolean;
  readonly scenarios: readonly Scenario[];
}

export interface Catalogue {
  readonly title: string;
  readonly introduction: string;
  readonly groups: readonly ScenarioGroup[];
}

/** In the order of the page. */
export const catalogueFiles = ['ambient', 'ebpf', 'proxy'].map(
  (name) => `test/conformance/catalogue/${name}.txt`,
);

export const readCatalogues = (): Catalogue[] =>
  catalogueFiles.map((file) => withVerdicts(parseCatalogue(readFileSync(file, 'utf8'), file), proxyVerdicts));

/** What stands beside the tests that it is about prevails over the line of the catalogue. */
function withVerdicts(catalogue: Catalogue, verdicts: readonly ProxyVerdict[]): Catalogue {
  const reasons = new Map(verdicts.map(({ id, verdict, why }) => [id, { kind: verdict, text: why }]));
  const reasoned = (scenario: Scenario): Scenario => {
    const reason = reasons.get(scenario.id);
    return reason === undefined ? scenario : { ...scenario, reason };
  };
  const groups = catalogue.groups.map((group) => ({ ...group, scenarios: group.scenarios.map(reasoned) }));
  return { ...catalogue, groups };
}

const reasonLine = /^(different|not applicable|planned): (.+)$/;
const testLine = /^test (\S+\.test\.ts): (.+)$/;

export function parseCatalogue(text: string, file: string): Catalogue {
  let title = '';
  const introduction: string[] = [];
  const groups: { title: string; open: boolean; planned?: string; scenarios: Scenario[] }[] = [];
  const seen = new Set<string>();
  for (const [index, line] of text.split('\n').entries()) {
    const wrong = (what: string): Error => new Error(`${file}:${index + 1}: ${what}: ${line}`);
    const group = groups.at(-1);
    if (line === '') continue;
    if (line.startsWith('# ')) title = line.slice(2);
    else if (line.startsWith('> ')) introduction.push(line.slice(2));
    else if (line.startsWith('## ')) {
      const open = line.endsWith(' (open)');
      groups.push({ title: line.slice(3, open ? -' (open)'.length : undefined), open, scenarios: [] });
    } else if (group === undefined) throw wrong('stands before the first group');
    else if (line.startsWith('planned: ')) group.planned = line.slice('planned: '.length);
    else if (line.startsWith('  ')) {
      const last = group.scenarios.pop();
      if (last === undefined) throw wrong('belongs to no scenario');
      group.scenarios.push(withVerdict(last, line.trim(), wrong));
    } else {
      const [, id = '', wording = ''] = /^([A-Z]+-\d{3}) (\S.*)$/.exec(line) ?? [];
      if (id === '') throw wrong('is neither a scenario nor anything else that is known here');
      if (seen.has(id)) throw wrong('is there twice');
      seen.add(id);
      group.scenarios.push({ id, wording, tests: [] });
    }
  }
  return {
    title,
    introduction: introduction.join('\n'),
    groups: groups.map(({ planned, scenarios, ...group }) => ({
      ...group,
      scenarios: scenarios.map((scenario) =>
        planned !== undefined && scenario.tests.length === 0 && scenario.reason === undefined
          ? { ...scenario, reason: { kind: 'planned', text: planned } }
          : scenario,
      ),
    })),
  };
}

function withVerdict(scenario: Scenario, line: string, wrong: (what: string) => Error): Scenario {
  const [, file, name] = testLine.exec(line) ?? [];
  if (file !== undefined && name !== undefined)
    return { ...scenario, tests: [...scenario.tests, { file, name }] };
  const [, kind, text] = reasonLine.exec(line) ?? [];
  if (text === undefined) throw wrong('is neither a test nor a reason');
  if (scenario.reason !== undefined) throw wrong('is a second reason');
  if (kind !== 'different' && kind !== 'not applicable' && kind !== 'planned')
    throw wrong('is no known reason');
  return { ...scenario, reason: { kind, text } };
}
