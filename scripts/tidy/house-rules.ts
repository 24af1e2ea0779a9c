// SPDX-License-Identifier: Apache-2.0
// Rules for single files that the linter does not know: licence line, length, leftovers.

export interface Finding {
  readonly level: 'error' | 'warning';
  readonly text: string;
}

const LINES_WARN = 400;
const LINES_MAX = 800;

const apache = 'SPDX-License-Identifier: Apache-2.0';
const bpfLicence = 'SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause';

const code = /\.(ts|c|h|sh)$|(^|\/)Makefile$|^\.ci\/run$/;
/** Text that belongs to the machine on which somebody wrote, not to the project. */
const foreignPath = /(?:^|[\s'"`(=:])(\/(?:work|tmp\/brief|root)\/[\w.-]+)/;
/** Hosts of package registries other than the public npm one, which npm itself writes into lockfiles. */
const registryHost = /https?:\/\/(?=[\w.-]*(?:registry|npm|artifactory|\bpypi\b))[\w-]+\.[\w.-]+/gi;
const publicHosts = new Set(['https://registry.npmjs.org', 'https://www.npmjs.com']);

export const isGenerated = (path: string): boolean => /(^|\/)proto\/gen\//.test(path);

/** What is wrong with one file. `path` is relative to the project. */
export function checkFile(path: string, text: string): Finding[] {
  const findings: Finding[] = [];
  const error = (line: number, what: string): void => {
    findings.push({ level: 'error', text: `${path}:${line}: ${what}` });
  };
  const lines = text.split('\n');
  const isLockfile = path === 'package-lock.json';

  for (const match of text.matchAll(registryHost)) {
    if (!publicHosts.has(match[0])) error(lineAt(text, match.index), 'names the host of a package registry');
  }
  if (isLockfile || isGenerated(path)) return findings;

  lines.forEach((line, index) => {
    const found = foreignPath.exec(line)?.[1];
    if (found !== undefined) error(index + 1, `names a path of one machine (${found})`);
    if (/\b(FIXME|XXX)\b/.test(line) && path !== 'scripts/tidy/house-rules.ts')
      error(index + 1, 'write TODO with its context');
    const todo = /\bTODO\b(.*)/.exec(line);
    if (todo !== null && !/^: \S+(\s+\S+){4,}/.test(todo[1] ?? '') && !path.startsWith('scripts/tidy')) {
      error(index + 1, 'a TODO says what is to be done and when ("TODO: five words or more")');
    }
  });

  if (!code.test(path)) return findings;
  const licence = path.startsWith('bpf/') ? bpfLicence : apache;
  const head = lines[0]?.startsWith('#!') === true ? lines[1] : lines[0];
  if (head?.includes(licence) !== true) error(1, `the first line is not "${licence}"`);
  if (path.endsWith('.ts') && /^export default\b/m.test(text))
    error(lineAt(text, text.search(/^export default\b/m)), 'default export');

  const length = lines.at(-1) === '' ? lines.length - 1 : lines.length;
  const level = length > LINES_MAX ? 'error' : length > LINES_WARN ? 'warning' : undefined;
  if (level !== undefined)
    findings.push({ level, text: `${path}: ${length} lines (aim at ${LINES_WARN}, at most ${LINES_MAX})` });
  return findings;
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split('\n').length;
}
