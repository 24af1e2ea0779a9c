// SPDX-License-Identifier: Apache-2.0
// Helm's language of --set and --set-string: `a.b=1,c={x,y},d[0].e=z`, with `\` before a comma, dot or bracket that
// is meant as such.

import { MeshError } from '#lib/core/errors.ts';

type Container = Record<string, unknown> | unknown[];

const LIST_INDEX_MAX = 1000;

/** Sets what `text` says in a copy of `values`. */
export function setValues(
  values: Readonly<Record<string, unknown>>,
  text: string,
  mode: 'typed' | 'text' | 'whole',
): Record<string, unknown> {
  const copy = structuredClone(values) as Record<string, unknown>;
  for (const item of mode === 'whole' ? [text] : splitAt(text, ',')) {
    const equals = findPlain(item, '=');
    if (equals < 0) throw wrong(item, `"${item}" has no value: write key=value`);
    const raw = item.slice(equals + 1);
    assign(copy, stepsOf(item.slice(0, equals)), mode === 'whole' ? raw : valueOf(raw, mode), item);
  }
  return copy;
}

/** Splits outside braces and where no backslash stands before. */
function splitAt(text: string, separator: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (letter === '\\') at++;
    else if (letter === '{') depth++;
    else if (letter === '}') depth--;
    else if (letter === separator && depth === 0) {
      parts.push(text.slice(start, at));
      start = at + 1;
    }
  }
  parts.push(text.slice(start));
  return parts.filter((part, index) => part !== '' || index < parts.length - 1);
}

function findPlain(text: string, letter: string): number {
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === letter) return at;
  }
  return -1;
}

const unescape = (text: string): string => text.replaceAll(/\\(.)/gs, '$1');

function stepsOf(key: string): (string | number)[] {
  return splitAt(key, '.').flatMap((part) => {
    const match = /^(.*?)((?:\[\d+\])*)$/s.exec(part);
    const name = unescape(match?.[1] ?? part);
    if (name === '') throw wrong(key, 'a part of its key is empty');
    const indexes = [...(match?.[2] ?? '').matchAll(/\[(\d+)\]/g)].map(([, digits]) => Number(digits));
    if (indexes.some((index) => index > LIST_INDEX_MAX)) throw wrong(key, `lists end at ${LIST_INDEX_MAX}`);
    return [name, ...indexes];
  });
}

function valueOf(raw: string, mode: 'typed' | 'text'): unknown {
  if (raw.startsWith('{') && raw.endsWith('}')) {
    const inner = raw.slice(1, -1);
    return inner === '' ? [] : splitAt(inner, ',').map((item) => valueOf(item, mode));
  }
  const text = unescape(raw);
  if (mode === 'text') return text;
  if (text === 'true' || text === 'false') return text === 'true';
  if (text === 'null') return null;
  // A leading zero says that it is a code, not a number.
  return /^-?(0|[1-9]\d{0,14})$/.test(text) ? Number(text) : text;
}

function assign(
  root: Record<string, unknown>,
  steps: readonly (string | number)[],
  value: unknown,
  item: string,
): void {
  let at: Container = root;
  for (const [index, step] of steps.entries()) {
    if ((typeof step === 'number') !== Array.isArray(at)) throw wrong(item, 'a list is set like a map');
    if (step === '__proto__') throw wrong(item, 'that is no key');
    const holder = at as Record<string | number, unknown>;
    if (index === steps.length - 1) {
      holder[step] = value;
      return;
    }
    const next = holder[step];
    if (typeof next === 'object' && next !== null) at = next as Container;
    else {
      const made: Container = typeof steps[index + 1] === 'number' ? [] : {};
      holder[step] = made;
      at = made;
    }
  }
}

const wrong = (item: string, message: string): MeshError =>
  new MeshError('MESH_CONFIG_INVALID', `--set ${item}: ${message}`);
