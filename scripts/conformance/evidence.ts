// SPDX-License-Identifier: Apache-2.0
// What stands for a scenario: that a test of this name is in the sources (all that can be known without a run), or that
// it passed in the last run of all tests.

import { globSync, readFileSync } from 'node:fs';
import type { NamedTest } from './catalogue.ts';
import type { RunRecord } from './run-record.ts';

export interface Evidence {
  /** There is a test or suite of this name, and everything in it holds. */
  holds(test: NamedTest): boolean;
  /** Files with tests that are named after this scenario, and whether all of those hold. */
  namedAfter(id: string): readonly { readonly file: string; readonly holds: boolean }[];
}

/** Ids at the beginning of a name: `C-101 …`, `C-101, C-102 …`, `C-101 and C-102 …`. */
const leadingIds = /^(?:[A-Z]+-\d{3}(?:, | and | )?)+/;
/** The same in a source, at the beginning of any string: names may be computed from a table. */
const quotedIds = /['"`]((?:[A-Z]+-\d{3}(?:, | and | )?)+)/g;
const eachId = /[A-Z]+-\d{3}/g;

export function evidenceOfSources(
  files: readonly string[] = globSync('**/*.test.ts', { exclude: ['node_modules/**', 'build/**'] }).sort(),
): Evidence {
  const sources = new Map(
    files.map((file) => [file, readFileSync(file, 'utf8').replaceAll("\\'", "'")] as const),
  );
  const filesOfId = new Map<string, Set<string>>();
  for (const [file, text] of sources) {
    if (!file.startsWith('test/')) continue;
    for (const [, ids = ''] of text.matchAll(quotedIds)) {
      for (const [id] of ids.matchAll(eachId)) {
        filesOfId.set(id, (filesOfId.get(id) ?? new Set()).add(file));
      }
    }
  }
  return {
    holds: ({ file, name }) => {
      const text = sources.get(file);
      // Up to the name's end; what stands before it in the title may be computed.
      return text !== undefined && ["'", '"', '`'].some((quote) => text.includes(`${name}${quote}`));
    },
    namedAfter: (id) => [...(filesOfId.get(id) ?? [])].map((file) => ({ file, holds: true })),
  };
}

export function evidenceOfRun(record: RunRecord): Evidence {
  const filesOfId = new Map<string, Map<string, boolean>>();
  for (const [file, results] of Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!file.startsWith('test/')) continue;
    for (const { path, outcome } of results) {
      for (const [id] of path
        .map((name) => leadingIds.exec(name)?.[0] ?? '')
        .join(' ')
        .matchAll(eachId)) {
        const files = filesOfId.get(id) ?? new Map<string, boolean>();
        files.set(file, (files.get(file) ?? true) && outcome === 'passed');
        filesOfId.set(id, files);
      }
    }
  }
  return {
    holds: ({ file, name }) => {
      const pattern = patternOf(name);
      const results = (record[file] ?? []).filter(({ path }) => path.some((part) => pattern.test(part)));
      return results.length > 0 && results.every(({ outcome }) => outcome === 'passed');
    },
    namedAfter: (id) => [...(filesOfId.get(id) ?? [])].map(([file, holds]) => ({ file, holds })),
  };
}

/** A name as it stands in the source, perhaps the end of it; what runs the same test in several ways adds `(way)`. */
function patternOf(name: string): RegExp {
  const parts = name.split(/\$\{[^}]*\}/).map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`${parts.join('.+')}(?: \\([^()]*\\))?$`);
}
