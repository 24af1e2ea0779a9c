// SPDX-License-Identifier: Apache-2.0
// The metrics of a node's agent, as a scraper sees them.

import assert from 'node:assert/strict';
import type { LocalMesh } from '../../local/harness.ts';
import { parseMetrics, type Series, sumOf } from '../conformance/metrics.ts';

export { sumOf as total, type Series };

export async function scrape(mesh: LocalMesh, node: string): Promise<readonly Series[]> {
  const { layout } = mesh.node(node);
  const run = await mesh
    .node(node)
    .exec(['curl', '-sS', '--max-time', '10', `http://${layout.address.v4}:4191/metrics`]);
  assert.equal(run.code, 0, run.stderr);
  return parseMetrics(run.stdout);
}
