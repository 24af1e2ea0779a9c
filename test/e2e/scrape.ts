// SPDX-License-Identifier: Apache-2.0
// The metrics of a node's agent, as a scraper sees them.

import assert from 'node:assert/strict';
import type { LocalMesh } from '../../local/harness.ts';
import { parseMetrics, type Series, sumOf } from '../conformance/metrics.ts';

export { sumOf as total, type Series };

export async function scrape(mesh: LocalMesh, node: string): Promise<readonly Series[]> {
  return parseMetrics(await scrapeText(mesh, node, 'text/plain'));
}

export async function scrapeText(mesh: LocalMesh, node: string, accept: string): Promise<string> {
  const url = `http://${mesh.node(node).layout.address.v4}:4191/metrics`;
  const run = await mesh.node(node).exec(['curl', '-sS', '--max-time', '10', '-H', `accept: ${accept}`, url]);
  assert.equal(run.code, 0, run.stderr);
  return run.stdout;
}
