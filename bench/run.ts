// SPDX-License-Identifier: Apache-2.0
// `make bench [BENCH=name]`: runs the benchmarks one after the other, prints a table, keeps the numbers as JSON,
// and fails if a bound is missed.

import { errorMessage } from '#lib/core/errors.ts';
import { clearGround } from './ground.ts';
import { growthBenches } from './growth.ts';
import { agentMemory, cniAdd } from './hundred-pods.ts';
import { latency } from './latency.ts';
import { memory } from './memory.ts';
import { proxyBenches, runProxyBench } from './proxies.ts';
import { renderTable, type Row, writeResults } from './results.ts';
import { scrape } from './scrape.ts';

const benches: Readonly<Record<string, () => Promise<Row[]>>> = {
  ...Object.fromEntries(
    Object.entries(proxyBenches).map(([name, bench]) => [name, () => runProxyBench(name, bench)]),
  ),
  latency,
  memory,
  scrape,
  'cni-add': cniAdd,
  'agent-memory': agentMemory,
  ...growthBenches,
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(benches, name));
if (unknown.length > 0) {
  console.error(`no benchmark ${unknown.join(', ')}; there are ${Object.keys(benches).join(', ')}`);
  process.exit(2);
}

let stopping = false;
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => {
    stopping = true;
    console.error(`${signal}: removing the mesh`);
    const leave = (): never => process.exit(code);
    clearGround().then(leave, leave);
  });
}

const rows: Row[] = [];
const broken: string[] = [];
for (const [name, run] of Object.entries(benches)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  console.log(`${name} …`);
  try {
    rows.push(...(await run()));
  } catch (error) {
    // Whoever interrupted it does not want the rest, and the process ends as soon as the mesh is gone.
    if (stopping) await new Promise(() => undefined);
    broken.push(name);
    console.error(`${name} did not run: ${errorMessage(error)}`);
  }
}

const path = wanted.length === 0 ? 'bench/results/latest.json' : `build/bench/${wanted.join('+')}.json`;
if (rows.length > 0) {
  writeResults(path, rows);
  console.log(`\n${renderTable(rows)}\n\n${path}`);
}
if (broken.length > 0) console.error(`did not run: ${broken.join(', ')}`);
process.exitCode = broken.length > 0 || rows.some((row) => !row.ok) ? 1 : 0;
