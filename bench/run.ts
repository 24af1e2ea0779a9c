// SPDX-License-Identifier: Apache-2.0
// `make bench [BENCH=name]`: runs the benchmarks one after the other, prints a table, keeps the numbers as JSON,
// and fails if a bound is missed.

import { errorMessage } from '#lib/core/errors.ts';
import { h1Mtls, h1Plain } from './h1.ts';
import { agentMemory, cniAdd } from './hundred-pods.ts';
import { type BenchResult, renderTable, writeResults } from './results.ts';

const benches: Readonly<Record<string, () => Promise<BenchResult[]>>> = {
  'h1-plain': h1Plain,
  'h1-mtls': h1Mtls,
  'cni-add': cniAdd,
  'agent-memory': agentMemory,
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(benches, name));
if (unknown.length > 0) {
  console.error(`no benchmark ${unknown.join(', ')}; there are ${Object.keys(benches).join(', ')}`);
  process.exit(2);
}

const results: BenchResult[] = [];
const broken: string[] = [];
for (const [name, run] of Object.entries(benches)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  console.log(`${name} …`);
  try {
    results.push(...(await run()));
  } catch (error) {
    broken.push(name);
    console.error(`${name} did not run: ${errorMessage(error)}`);
  }
}

const path = wanted.length === 0 ? 'bench/results/latest.json' : `build/bench/${wanted.join('+')}.json`;
if (results.length > 0) {
  writeResults(path, results);
  console.log(`\n${renderTable(results)}\n\n${path}`);
}
process.exitCode = broken.length > 0 || results.some((result) => !result.ok) ? 1 : 0;
