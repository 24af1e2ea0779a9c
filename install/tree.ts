// SPDX-License-Identifier: Apache-2.0
// The language that the mesh's objects are written in: plain Kubernetes objects, with expressions where a value
// decides. render-objects.ts evaluates a tree with given values; render-template.ts writes it as a Helm template,
// so that both say the same. Nothing here knows what is installed.

import { fieldAt } from './known-values.ts';

export type Scalar = string | number | boolean | null;

/** What stands for a scalar, a list or a map that is known only with the values. */
export type Expression =
  | { readonly $: 'value'; readonly path: string }
  /** The namespace that is installed into. */
  | { readonly $: 'namespace' }
  /** Who renders: `nodemesh/cli 1.2.3`. */
  | { readonly $: 'creator' }
  | { readonly $: 'text'; readonly parts: readonly (string | Expression)[] }
  /** The first that is not empty. */
  | { readonly $: 'either'; readonly first: Expression; readonly otherwise: Expression }
  /** A map with further entries, which do not replace its own. */
  | { readonly $: 'merge'; readonly map: TreeMap | Expression; readonly more: Expression }
  | { readonly $: 'concat'; readonly list: readonly Tree[]; readonly more: Expression }
  /** A value without which Helm refuses to render, with what it says then. */
  | { readonly $: 'required'; readonly path: string; readonly message: string }
  /** All values but private keys, as YAML text. */
  | { readonly $: 'storedValues' }
  /** All values as YAML text, where none is private. */
  | { readonly $: 'allValues' };

export type Condition =
  /** Not empty, as Helm understands it: neither false, 0, "", an empty list nor an empty map. */
  | { readonly $: 'given'; readonly of: Expression }
  | { readonly $: 'equals'; readonly of: Expression; readonly to: string | number }
  | { readonly $: 'not'; readonly of: Condition }
  | { readonly $: 'any'; readonly of: readonly Condition[] };

/** As an entry of a map, an item of a list or a whole object: absent unless the condition holds. */
export interface When {
  readonly $: 'when';
  readonly condition: Condition;
  readonly content: Tree;
  readonly otherwise: Tree | undefined;
}

export interface TreeMap {
  readonly [key: string]: Tree;
}
export type Tree = Scalar | readonly Tree[] | Expression | When | TreeMap;

export const isTagged = (tree: Tree): tree is Expression | When =>
  typeof tree === 'object' && tree !== null && !Array.isArray(tree) && '$' in tree;

/** A value by its path, which must be one of the table. */
export function value(path: string): Expression {
  fieldAt(path);
  return { $: 'value', path };
}

export function required(path: string, message: string): Expression {
  fieldAt(path);
  return { $: 'required', path, message };
}

export const namespace: Expression = { $: 'namespace' };
export const creator: Expression = { $: 'creator' };
export const storedValues: Expression = { $: 'storedValues' };
export const allValues: Expression = { $: 'allValues' };

export const text = (...parts: readonly (string | Expression)[]): Expression => ({ $: 'text', parts });
export const either = (first: Expression, otherwise: Expression): Expression => ({
  $: 'either',
  first,
  otherwise,
});
export const merge = (map: TreeMap | Expression, more: Expression): Expression => ({ $: 'merge', map, more });
export const concat = (list: readonly Tree[], more: Expression): Expression => ({ $: 'concat', list, more });

export const given = (path: string): Condition => ({ $: 'given', of: value(path) });
export const equals = (path: string, to: string | number): Condition => ({
  $: 'equals',
  of: value(path),
  to,
});
export const not = (of: Condition): Condition => ({ $: 'not', of });
export const any = (...of: readonly Condition[]): Condition => ({ $: 'any', of });
export const when = (condition: Condition, content: Tree, otherwise?: Tree): When => ({
  $: 'when',
  condition,
  content,
  otherwise,
});

/** A part of what is installed: one file of the chart. */
export interface ObjectGroup {
  readonly name: string;
  readonly objects: readonly (TreeMap | When)[];
}
