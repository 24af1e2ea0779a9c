// SPDX-License-Identifier: Apache-2.0
// docs/reference/conformance.md: each scenario of the catalogues with its status and its tests. The same text whenever
// and wherever it is made, so that the committed page can be compared with what a run showed.

import type { Catalogue, NamedTest, Scenario } from './catalogue.ts';
import type { Evidence } from './evidence.ts';

const statuses = ['passed', 'different', 'not applicable', 'planned', 'missing'] as const;
export type Status = (typeof statuses)[number];

export interface Verdict {
  readonly status: Status;
  /** Tests as the page names them; those named after the scenario by their file alone. */
  readonly tests: readonly string[];
  /** Of a missing one: what was expected and did not hold. */
  readonly unmet: readonly string[];
}

export function judge(scenario: Scenario, evidence: Evidence): Verdict {
  const { tests, reason } = scenario;
  const named = evidence.namedAfter(scenario.id);
  const shown = [...tests.map(testInWords), ...named.map(({ file }) => `\`${file}\`: ${scenario.id}`)];
  const unmet = [
    ...tests.filter((test) => !evidence.holds(test)).map(testInWords),
    ...named.filter(({ holds }) => !holds).map(({ file }) => `\`${file}\`: ${scenario.id}`),
  ];
  if (unmet.length > 0) return { status: 'missing', tests: shown, unmet };
  if (reason?.kind === 'not applicable') return { status: 'not applicable', tests: shown, unmet };
  if (shown.length > 0)
    return { status: reason?.kind === 'different' ? 'different' : 'passed', tests: shown, unmet };
  if (reason?.kind === 'planned') return { status: 'planned', tests: shown, unmet };
  return { status: 'missing', tests: shown, unmet: ['a test'] };
}

const testInWords = ({ file, name }: NamedTest): string => `\`${file}\`: ${name}`;

/** What may not be: a test that is named and does not hold, and a gap in a group that shall have none. */
export function complaints(catalogues: readonly Catalogue[], evidence: Evidence): string[] {
  const found: string[] = [];
  for (const { groups } of catalogues) {
    for (const { title, open, scenarios } of groups) {
      for (const scenario of scenarios) {
        const { status, tests, unmet } = judge(scenario, evidence);
        if (status === 'missing' && (!open || tests.length > 0))
          found.push(`${scenario.id} (${title}) lacks ${unmet.join(', ')}`);
        if (status === 'planned' && !open) found.push(`${scenario.id} (${title}) is only planned`);
      }
    }
  }
  return found;
}

const cell = (text: string): string =>
  text.replaceAll('|', '\\|').replaceAll('<', '&lt;').replaceAll('\n', ' ');

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

function counted(title: string, verdicts: readonly Verdict[]): string {
  const counts = statuses.map((status) => {
    const number = verdicts.filter((verdict) => verdict.status === status).length;
    return number === 0 ? '' : String(number);
  });
  return line([title, ...counts]);
}

export function conformancePage(note: string, catalogues: readonly Catalogue[], evidence: Evidence): string {
  const summary: string[] = [];
  const sections: string[] = [];
  const all: Verdict[] = [];
  for (const { title, introduction, groups } of catalogues) {
    sections.push(`## ${title}`, introduction);
    for (const group of groups) {
      const verdicts = group.scenarios.map((scenario) => judge(scenario, evidence));
      all.push(...verdicts);
      summary.push(counted(`${title.split(':')[0] ?? title}: ${group.title}`, verdicts));
      const rows = group.scenarios.map((scenario, index) => {
        const verdict = verdicts[index] ?? { status: 'missing', tests: [] };
        const why =
          scenario.reason !== undefined && scenario.reason.kind === verdict.status
            ? `: ${scenario.reason.text}`
            : '';
        return line([
          scenario.id,
          cell(scenario.wording),
          cell(`${verdict.status}${why}`),
          verdict.tests.map(cell).join('<br>'),
        ]);
      });
      sections.push(
        `### ${group.title}`,
        [line(['id', 'scenario', 'here', 'tests']), line(['---', '---', '---', '---']), ...rows].join('\n'),
      );
    }
  }
  return [
    '# Conformance',
    note,
    introductionOfPage,
    [
      line(['scenarios', ...statuses]),
      line(['---', ...statuses.map(() => '---:')]),
      ...summary,
      counted('all', all),
    ].join('\n'),
    ...sections,
  ].join('\n\n');
}

const introductionOfPage = [
  'What others who built a mesh test, or document about the behaviour of theirs, scenario by scenario in our words, and what',
  'becomes of it here. `make test` ends with making this page from its own results, and fails if it is not this one.',
  '',
  '* **passed**: the tests named beside it passed in the run.',
  '* **different**: nodemesh does something else on purpose; the sentence of the design that asks for it is cited, and the',
  '  tests named passed.',
  '* **not applicable**: nodemesh has no such thing; the reason is given.',
  '* **planned**: not there yet; what it belongs to is said.',
  '* **missing**: neither a test that passed nor a reason.',
].join('\n');
