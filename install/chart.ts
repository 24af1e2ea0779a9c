// SPDX-License-Identifier: Apache-2.0
// The files of the Helm charts, made from the same trees and values as what `mesh install` prints. charts/ holds
// them; a test compares, and `make docs` writes them anew.

import { stringify } from 'yaml';
import { ownVersion } from '#lib/version/own-version.ts';
import { cniGroups } from './cni.ts';
import { cniValues } from './cni-values-table.ts';
import { controlPlaneGroups } from './control-plane.ts';
import { definitionGroups } from './crds/definitions.ts';
import { renderTemplate } from './render-template.ts';
import type { ObjectGroup } from './tree.ts';
import { isField, type ValuesModel, type ValuesTable } from './value-fields.ts';
import { controlPlaneValues, highAvailabilityValues } from './values-table.ts';

const MADE = '# Made from install/ by `make docs`: change it there.';

/** Path below charts/ and text of every file. */
export function chartFiles(): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  const withValues = (
    name: string,
    description: string,
    model: ValuesModel,
    groups: readonly ObjectGroup[],
  ): void => {
    files.set(`${name}/Chart.yaml`, chartYaml(name, description));
    files.set(`${name}/values.yaml`, `${MADE}\n\n${valuesYaml(model.table, 0)}`);
    files.set(`${name}/values.schema.json`, `${JSON.stringify(jsonSchema(model), undefined, 2)}\n`);
    for (const group of groups)
      files.set(`${name}/templates/${group.name}.yaml`, `${MADE}\n${renderTemplate(group)}`);
  };
  const controlPlane = 'nodemesh-control-plane';
  withValues(
    controlPlane,
    'The control plane of nodemesh: identity, destination and the policy webhook',
    controlPlaneValues,
    controlPlaneGroups,
  );
  files.set(
    `${controlPlane}/values-ha.yaml`,
    `${MADE}\n# What \`mesh install --ha\` changes: helm install -f values-ha.yaml\n\n${stringify(highAvailabilityValues)}`,
  );
  withValues(
    'nodemesh-cni',
    'What nodemesh runs on every node: agent, keeper and the CNI plugin',
    cniValues,
    cniGroups,
  );
  const crds = 'nodemesh-crds';
  files.set(`${crds}/Chart.yaml`, chartYaml(crds, 'The resource kinds that nodemesh shares with Linkerd'));
  files.set(`${crds}/values.yaml`, `${MADE}\n\n# Further labels of every object.\ncommonLabels: {}\n`);
  for (const group of definitionGroups) {
    files.set(`${crds}/templates/${group.name}.yaml`, `${MADE}\n${renderTemplate(group)}`);
  }
  return files;
}

function chartYaml(name: string, description: string): string {
  const chart = {
    apiVersion: 'v2',
    name,
    description,
    type: 'application',
    version: ownVersion(),
    appVersion: ownVersion(),
    kubeVersion: '>=1.30.0-0',
  };
  return `${MADE}\n${stringify(chart)}`;
}

function valuesYaml(table: ValuesTable, indent: number): string {
  const pad = ' '.repeat(indent);
  return Object.entries(table)
    .map(([key, entry]) => {
      if (!isField(entry)) return `${pad}${key}:\n${valuesYaml(entry, indent + 2)}`;
      const lines = stringify({ [key]: entry.default })
        .trimEnd()
        .split('\n');
      return `${pad}# ${entry.doc}\n${lines.map((line) => `${pad}${line}\n`).join('')}`;
    })
    .join('');
}

function jsonSchema({ table, ignoredKeys }: ValuesModel): Record<string, unknown> {
  return { $schema: 'http://json-schema.org/draft-07/schema#', ...schemaOf(table, '', ignoredKeys) };
}

function schemaOf(
  table: ValuesTable,
  prefix: string,
  ignoredKeys: readonly string[],
): Record<string, unknown> {
  const properties: Record<string, unknown> = {};
  for (const [key, entry] of Object.entries(table)) {
    properties[key] = isField(entry)
      ? { description: entry.doc, ...entry.type.json }
      : schemaOf(entry, `${prefix}${key}.`, ignoredKeys);
  }
  for (const path of ignoredKeys) {
    const key = path.slice(prefix.length);
    if (path.startsWith(prefix) && !key.includes('.') && !(key in properties) && key !== '*')
      properties[key] = {};
  }
  // Helm hands these down by itself.
  if (prefix === '') properties['global'] = {};
  return {
    type: 'object',
    properties,
    additionalProperties: ignoredKeys.includes(`${prefix}*`),
  };
}
