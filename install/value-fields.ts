// SPDX-License-Identifier: Apache-2.0
// What tables of values are made of, and what else belongs to the values of one chart.

import { quantity, type ValueType } from './value-types.ts';

export interface Field {
  readonly default: unknown;
  readonly type: ValueType;
  readonly doc: string;
  /** Kept out of every object but its Secret. */
  readonly isPrivate: boolean;
}

export interface ValuesTable {
  readonly [key: string]: Field | ValuesTable;
}

export const field = (fallback: unknown, type: ValueType, doc: string, isPrivate = false): Field => ({
  default: fallback,
  type,
  doc,
  isPrivate,
});

export const resources = (who: string, cpuRequest = '', memoryRequest = ''): ValuesTable => ({
  cpu: {
    request: field(cpuRequest, quantity, `CPU request of ${who}.`),
    limit: field('', quantity, `CPU limit of ${who}.`),
  },
  memory: {
    request: field(memoryRequest, quantity, `Memory request of ${who}.`),
    limit: field('', quantity, `Memory limit of ${who}.`),
  },
});

export const isField = (entry: Field | ValuesTable): entry is Field => 'isPrivate' in entry;

function flatten(table: ValuesTable, prefix: string): [string, Field][] {
  return Object.entries(table).flatMap(([key, entry]) =>
    isField(entry) ? [[`${prefix}${key}`, entry] as [string, Field]] : flatten(entry, `${prefix}${key}.`),
  );
}

/** The values of one chart and of the commands that print the same. */
export interface ValuesModel {
  readonly table: ValuesTable;
  /** By path (`identity.issuer.scheme`), in the table's order. */
  readonly fields: ReadonlyMap<string, Field>;
  /** Keys of Linkerd's chart for what does not exist here: accepted, so that values made for Linkerd can be used. */
  readonly ignoredKeys: readonly string[];
  /** Where they are documented. */
  readonly page: string;
}

export const modelOf = (model: Omit<ValuesModel, 'fields'>): ValuesModel => ({
  ...model,
  fields: new Map(flatten(model.table, '')),
});
