// SPDX-License-Identifier: Apache-2.0
// Writes trees as Helm templates. Every value that comes from outside passes through toJson, so that no text of a
// value can become structure.

import {
  type Condition,
  type Expression,
  isTagged,
  type ObjectGroup,
  type Tree,
  type TreeMap,
} from './tree.ts';
import { fieldAt } from './known-values.ts';
import { privatePaths } from './values-table.ts';

/** The text of one file of the chart. */
export function renderTemplate(group: ObjectGroup): string {
  const documents = group.objects.map((tree) => {
    if (!isTagged(tree)) return ['---', ...block(tree, 0)];
    if (tree.$ !== 'when') throw new Error(`${group.name}: an object cannot be the expression ${tree.$}`);
    return [
      `{{- if ${conditionOf(tree.condition)} }}`,
      '---',
      ...block(tree.content as TreeMap, 0),
      '{{- end }}',
    ];
  });
  return `${documents.flat().join('\n')}\n`;
}

/** A map or list in block style, by lines. */
function block(tree: TreeMap | readonly Tree[], indent: number): string[] {
  const pad = ' '.repeat(indent);
  if (Array.isArray(tree)) {
    return (tree as readonly Tree[]).flatMap((item) =>
      guarded(item, pad, (plain) => listItem(plain, indent)),
    );
  }
  return Object.entries(tree).flatMap(([key, child]) =>
    guarded(child, pad, (plain) => entry(scalar(key), plain, indent)),
  );
}

/** The lines of an item or entry, within if and end when it is conditional. */
function guarded(tree: Tree, pad: string, lines: (plain: Tree) => string[]): string[] {
  if (!isTagged(tree) || tree.$ !== 'when') return lines(tree);
  return [
    `${pad}{{- if ${conditionOf(tree.condition)} }}`,
    ...guarded(tree.content, pad, lines),
    ...(tree.otherwise === undefined ? [] : [`${pad}{{- else }}`, ...guarded(tree.otherwise, pad, lines)]),
    `${pad}{{- end }}`,
  ];
}

const isBlock = (tree: Tree): tree is TreeMap | readonly Tree[] =>
  typeof tree === 'object' && tree !== null && !isTagged(tree) && Object.keys(tree).length > 0;

function entry(key: string, tree: Tree, indent: number): string[] {
  const pad = ' '.repeat(indent);
  if (!isBlock(tree)) return [`${pad}${key}: ${inline(tree)}`];
  return [`${pad}${key}:`, ...block(tree, Array.isArray(tree) ? indent : indent + 2)];
}

function listItem(tree: Tree, indent: number): string[] {
  const pad = ' '.repeat(indent);
  if (!isBlock(tree)) return [`${pad}- ${inline(tree)}`];
  const [first = '', ...rest] = block(tree, indent + 2);
  // A template's action cannot stand behind the dash.
  if (first.trimStart().startsWith('{{-')) return [`${pad}-`, first, ...rest];
  return [`${pad}- ${first.trimStart()}`, ...rest];
}

function inline(tree: Tree): string {
  if (isTagged(tree)) {
    if (tree.$ === 'when') throw new Error('a condition needs a place of its own');
    return `{{ ${goExpression(tree)} | toJson }}`;
  }
  if (tree === null || typeof tree !== 'object') return scalar(tree);
  return Array.isArray(tree) ? '[]' : '{}';
}

/** YAML 1.1 reads some plain words as other than text; numbers and dates too. */
const plainText = /^[A-Za-z_/][\w./-]*$/;
const readOtherwise = /^(y|n|yes|no|on|off|true|false|null|nan|inf)$/i;

function scalar(tree: string | number | boolean | null): string {
  if (typeof tree !== 'string') return JSON.stringify(tree);
  return plainText.test(tree) && !readOtherwise.test(tree) ? tree : JSON.stringify(tree);
}

function goExpression(expression: Expression): string {
  switch (expression.$) {
    case 'value':
      return `.Values.${expression.path}`;
    case 'required':
      return `required ${JSON.stringify(`${expression.path}: ${expression.message}`)} .Values.${expression.path}`;
    case 'namespace':
      return '.Release.Namespace';
    case 'creator':
      return 'printf "nodemesh/helm %s" .Chart.AppVersion';
    case 'text': {
      const format = expression.parts.map((part) =>
        typeof part === 'string' ? part.replaceAll('%', '%%') : '%v',
      );
      const words = expression.parts.flatMap((part) => (typeof part === 'string' ? [] : [goWord(part)]));
      return ['printf', JSON.stringify(format.join('')), ...words].join(' ');
    }
    case 'either':
      return `or ${goWord(expression.first)} ${goWord(expression.otherwise)}`;
    case 'merge':
      // merge changes its first map: that must never be one of the values.
      return `merge ${isTagged(expression.map) ? '(dict) ' : ''}${goTree(expression.map)} ${goWord(expression.more)}`;
    case 'concat':
      return `concat ${goTree(expression.list)} ${goWord(expression.more)}`;
    case 'allValues':
      return 'toYaml .Values';
    case 'storedValues':
      return [
        '$stored := deepCopy .Values',
        '$_ := set $stored "identityTrustDomain" (or .Values.identityTrustDomain .Values.clusterDomain)',
        ...privatePaths.map((path) => {
          const end = path.lastIndexOf('.');
          return `$_ := unset $stored.${path.slice(0, end)} ${JSON.stringify(path.slice(end + 1))}`;
        }),
        'toYaml $stored',
      ].join(' }}{{ ');
  }
}

/** As an argument. Helm's numbers are floats; large ones would be printed with an exponent. */
function goWord(expression: Expression): string {
  if (expression.$ === 'value') {
    const path = goExpression(expression);
    return fieldAt(expression.path).type.kind === 'integer' ? `(int64 ${path})` : path;
  }
  return expression.$ === 'namespace' ? goExpression(expression) : `(${goExpression(expression)})`;
}

function goTree(tree: Tree): string {
  if (isTagged(tree)) {
    if (tree.$ === 'when') throw new Error('a condition cannot stand inside merge and concat');
    return goWord(tree);
  }
  if (tree === null || typeof tree !== 'object') return JSON.stringify(tree);
  if (Array.isArray(tree))
    return `(list${(tree as readonly Tree[]).map((item) => ` ${goTree(item)}`).join('')})`;
  const entries = Object.entries(tree).map(([key, child]) => ` ${JSON.stringify(key)} ${goTree(child)}`);
  return `(dict${entries.join('')})`;
}

function conditionOf(condition: Condition): string {
  switch (condition.$) {
    case 'given':
      return condition.of.$ === 'value' || condition.of.$ === 'namespace'
        ? goExpression(condition.of)
        : goWord(condition.of);
    case 'equals':
      return `eq ${goWord(condition.of)} ${typeof condition.to === 'number' ? `(int64 ${condition.to})` : JSON.stringify(condition.to)}`;
    case 'not':
      return `not (${conditionOf(condition.of)})`;
    case 'any':
      return `or ${condition.of.map((one) => `(${conditionOf(one)})`).join(' ')}`;
  }
}
