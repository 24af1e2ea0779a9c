// SPDX-License-Identifier: Apache-2.0
// Evaluates trees with values: the objects that `mesh install` prints.

import { printValues } from './print.ts';
import { type Condition, type Expression, isTagged, type ObjectGroup, type Tree } from './tree.ts';
import { storedValues, type Values, valueAt } from './values.ts';

export interface RenderContext {
  readonly values: Values;
  readonly namespace: string;
  readonly creator: string;
}

export type Plain = string | number | boolean | null | readonly Plain[] | { readonly [key: string]: Plain };

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string } & {
    readonly [key: string]: Plain;
  };
  readonly [key: string]: Plain;
}

export function renderObjects(groups: readonly ObjectGroup[], context: RenderContext): KubernetesObject[] {
  return groups.flatMap((group) =>
    group.objects.flatMap((tree) => {
      const object = evaluate(tree, context);
      return object === undefined ? [] : [object as KubernetesObject];
    }),
  );
}

/** Whether Helm's `if` would go in. */
const isGiven = (value: unknown): boolean =>
  Array.isArray(value)
    ? value.length > 0
    : typeof value === 'object' && value !== null
      ? Object.keys(value).length > 0
      : Boolean(value);

/** undefined: absent. */
function evaluate(tree: Tree, context: RenderContext): Plain | undefined {
  if (tree === null || typeof tree !== 'object') return tree;
  if (Array.isArray(tree)) {
    const items: readonly Tree[] = tree;
    return items.map((item) => evaluate(item, context)).filter((item) => item !== undefined);
  }
  if (isTagged(tree)) {
    if (tree.$ !== 'when') return evaluateExpression(tree, context);
    if (holds(tree.condition, context)) return evaluate(tree.content, context);
    return tree.otherwise === undefined ? undefined : evaluate(tree.otherwise, context);
  }
  const map: Record<string, Plain> = {};
  for (const [key, child] of Object.entries(tree)) {
    const value = evaluate(child, context);
    if (value !== undefined) map[key] = value;
  }
  return map;
}

function evaluateExpression(expression: Expression, context: RenderContext): Plain {
  switch (expression.$) {
    case 'value':
    case 'required':
      return valueAt(context.values, expression.path);
    case 'namespace':
      return context.namespace;
    case 'creator':
      return context.creator;
    case 'text':
      return expression.parts
        .map((part) => {
          const plain = typeof part === 'string' ? part : evaluateExpression(part, context);
          return typeof plain === 'string' ? plain : JSON.stringify(plain);
        })
        .join('');
    case 'either': {
      const first = evaluateExpression(expression.first, context);
      return isGiven(first) ? first : evaluateExpression(expression.otherwise, context);
    }
    case 'merge':
      return {
        ...(evaluateExpression(expression.more, context) as Record<string, Plain>),
        ...(evaluate(expression.map, context) as Record<string, Plain>),
      };
    case 'concat':
      return [
        ...(evaluate(expression.list, context) as readonly Plain[]),
        ...(evaluateExpression(expression.more, context) as readonly Plain[]),
      ];
    case 'allValues':
      return printValues(context.values);
    case 'storedValues':
      return printValues(storedValues(context.values));
  }
}

function holds(condition: Condition, context: RenderContext): boolean {
  switch (condition.$) {
    case 'given':
      return isGiven(evaluateExpression(condition.of, context));
    case 'equals':
      return evaluateExpression(condition.of, context) === condition.to;
    case 'not':
      return !holds(condition.of, context);
    case 'any':
      return condition.of.some((one) => holds(one, context));
  }
}
