// SPDX-License-Identifier: Apache-2.0
// Finds what a TypeScript file imports, from its text. Not a parser: it knows the forms that this project's
// formatter leaves (single quotes, one statement starting a line, or `import('…')` anywhere).

import { dirname, join, normalize } from 'node:path/posix';

export interface Import {
  readonly specifier: string;
  /** Path of the imported file inside the project, or undefined for a package or a built-in module. */
  readonly file: string | undefined;
  /** Only types: nothing is loaded at run time. */
  readonly typeOnly: boolean;
  readonly line: number;
}

const statement =
  /^(?:import|export)\s+(type\s+)?(?:[\w*${][^;'"]*?\sfrom\s*)?'([^'\n]+)'|\bimport\('([^'\n]+)'\)/gm;

/** Imports and re-exports of `text`, which is the file `path` (relative to the project, with slashes). */
export function importsOf(path: string, text: string): Import[] {
  const found: Import[] = [];
  for (const match of withoutComments(text).matchAll(statement)) {
    const specifier = match[2] ?? match[3];
    if (specifier === undefined) continue;
    const clause = match[0];
    const named = /\{([^}]*)\}/.exec(clause)?.[1];
    const everyNameIsType =
      named !== undefined &&
      /^(?:import|export)\s*\{/.test(clause) &&
      named
        .split(',')
        .map((name) => name.trim())
        .filter((name) => name !== '')
        .every((name) => name.startsWith('type '));
    found.push({
      specifier,
      file: resolve(path, specifier),
      typeOnly: match[1] !== undefined || everyNameIsType,
      line: text.slice(0, match.index).split('\n').length,
    });
  }
  return found;
}

function resolve(path: string, specifier: string): string | undefined {
  if (specifier.startsWith('#lib/')) return `lib/${specifier.slice('#lib/'.length)}`;
  if (specifier.startsWith('.')) return normalize(join(dirname(path), specifier));
  return undefined;
}

/** Comments become blanks of the same length, so that line numbers stay. Strings are left alone. */
export function withoutComments(text: string): string {
  return text.replace(
    /'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`|\/\/[^\n]*|\/\*[\s\S]*?\*\//g,
    (token) => (token.startsWith('//') || token.startsWith('/*') ? token.replace(/[^\n]/g, ' ') : token),
  );
}

export interface Graph {
  readonly importsOfFile: ReadonlyMap<string, readonly Import[]>;
}

export function graphOf(files: ReadonlyMap<string, string>): Graph {
  const importsOfFile = new Map<string, readonly Import[]>();
  for (const [path, text] of files) importsOfFile.set(path, importsOf(path, text));
  return { importsOfFile };
}

/** One cycle of `edges` as a closed path (first = last), or undefined. Depth-first, three colours. */
export function findCycle(edges: ReadonlyMap<string, ReadonlySet<string>>): string[] | undefined {
  const done = new Set<string>();
  const path: string[] = [];
  const onPath = new Set<string>();
  const visit = (node: string): string[] | undefined => {
    if (onPath.has(node)) return [...path.slice(path.indexOf(node)), node];
    if (done.has(node)) return undefined;
    onPath.add(node);
    path.push(node);
    for (const next of edges.get(node) ?? []) {
      const cycle = visit(next);
      if (cycle !== undefined) return cycle;
    }
    path.pop();
    onPath.delete(node);
    done.add(node);
    return undefined;
  };
  for (const node of edges.keys()) {
    const cycle = visit(node);
    if (cycle !== undefined) return cycle;
  }
  return undefined;
}
