// SPDX-License-Identifier: Apache-2.0
// The metrics of a node's agent, as a scraper sees them.

import assert from 'node:assert/strict';
import type { LocalMesh } from '../../local/harness.ts';

export interface Series {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export async function scrape(mesh: LocalMesh, node: string): Promise<readonly Series[]> {
  const { layout } = mesh.node(node);
  const run = await mesh
    .node(node)
    .exec(['curl', '-sS', '--max-time', '10', `http://${layout.address.v4}:4191/metrics`]);
  assert.equal(run.code, 0, run.stderr);
  return run.stdout.split('\n').flatMap((line) => {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null) return [];
    const labels = [...(match[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
    return [
      {
        name: match[1] ?? '',
        labels: Object.fromEntries(labels.map(([, name = '', value = '']) => [name, value])),
        value: Number(match[3]),
      },
    ];
  });
}

/** The sum over all series of the family that carry the labels. */
export function total(
  series: readonly Series[],
  name: string,
  labels: Readonly<Record<string, string>>,
): number {
  const wanted = Object.entries(labels);
  return series
    .filter((one) => one.name === name && wanted.every(([key, value]) => one.labels[key] === value))
    .reduce((sum, one) => sum + one.value, 0);
}
