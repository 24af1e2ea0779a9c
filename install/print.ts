// SPDX-License-Identifier: Apache-2.0
// Objects as the text that kubectl reads: YAML documents, or one JSON object a line.

import { stringify } from 'yaml';

export type OutputFormat = 'yaml' | 'json';

/** YAML 1.1, as kubectl reads it: "yes" and "on" are quoted. */
const yamlOf = (value: unknown): string => stringify(value, { version: '1.1', lineWidth: 0 });

export const printObjects = (objects: readonly object[], format: OutputFormat): string =>
  format === 'json'
    ? objects.map((object) => `${JSON.stringify(object)}\n`).join('')
    : objects.map((object) => `---\n${yamlOf(object)}`).join('');

/** Values, sorted: the same values give the same bytes. */
export const printValues = (values: object): string =>
  stringify(values, { version: '1.1', lineWidth: 0, sortMapEntries: true });
