// SPDX-License-Identifier: Apache-2.0
// Which part of the project may import which. Arrows point down only:
//
//   4  bench  samples  scripts  test                                     nobody imports these
//   3  cli  daemonset  agent/main  destination/main  identity/main …     entry points: wiring only
//   2  agent/{node,proxy,admin}  destination  identity  local  cni-plugin/logic …
//   1  lib/*
//   0  lib/core                                                          no dependencies
//
// Parts of layer 2 do not import each other; `sideways` holds the exceptions.

import { findCycle, type Graph } from './imports.ts';

const featureParts = new Set([
  'destination',
  'identity',
  'local',
  'webhook',
  'install',
  'keeper',
  'viz',
  'tracing',
  'multicluster',
]);
const topParts = new Set(['bench', 'samples', 'scripts', 'test']);
const entryParts = new Set(['cli', 'daemonset']);

interface Place {
  readonly part: string;
  readonly layer: 0 | 1 | 2 | 3 | 4;
}

/** The part that a file belongs to and its layer. */
export function placeOf(path: string): Place {
  const [first = '', second = '', ...rest] = path.split('/');
  const isDirect = rest.length === 0;
  if (first === 'lib') return { part: `lib/${second}`, layer: second === 'core' ? 0 : 1 };
  if (topParts.has(first)) return { part: first, layer: 4 };
  if (entryParts.has(first)) return { part: first, layer: 3 };
  if (first === 'agent' || first === 'cni-plugin') {
    return isDirect ? { part: first, layer: 3 } : { part: `${first}/${second}`, layer: 2 };
  }
  if (featureParts.has(first)) {
    return isDirect && second === 'main.ts' ? { part: `${first}/main`, layer: 3 } : { part: first, layer: 2 };
  }
  return { part: first, layer: 4 };
}

/** Imports between parts of layer 2 that are allowed, with the reason. */
const sideways: readonly { readonly from: string; readonly to: RegExp; readonly why: string }[] = [
  { from: 'agent/node', to: /^cni-plugin\/logic\//, why: "the plugin's logic runs in the agent" },
  { from: 'agent/node', to: /^agent\/proxy\/model\.ts$/, why: 'plain data that crosses to the workers' },
  { from: 'agent/admin', to: /^agent\/proxy\/model\.ts$/, why: 'plain data that crosses to the workers' },
];

const registryKubernetesUsers = /^(identity|destination|webhook|cli)\//;
const kernelParts = /^lib\/(bpf|net)\//;
const codec = /^(agent\/proxy\/(http1|http2)|lib\/(http|http2))\//;
const agentForbidden = /^(@kubernetes\/client-node|yargs)(\/|$)/;
const isTest = (path: string): boolean => path.endsWith('.test.ts');

/** Every import that the layers forbid, and every cycle, as `file:line: what`. */
export function checkLayers(graph: Graph): string[] {
  const problems: string[] = [];
  for (const [path, imports] of graph.importsOfFile) {
    const from = placeOf(path);
    for (const { file, specifier, line } of imports) {
      const complain = (what: string): void => {
        problems.push(`${path}:${line}: ${what}`);
      };
      if (file === undefined) {
        if (from.layer === 0 && !specifier.startsWith('node:'))
          complain(`lib/core has no dependencies, not ${specifier}`);
        if (codec.test(path) && !isTest(path))
          complain(`a codec imports only lib/core and itself, not ${specifier}`);
        continue;
      }
      const to = placeOf(file);
      if (
        file.startsWith('lib/registry-kubernetes/') &&
        !path.startsWith('lib/registry-kubernetes/') &&
        from.layer < 4
      ) {
        if (!registryKubernetesUsers.test(path))
          complain(`${file} is for identity, destination, webhook and cli only`);
      }
      if (path.startsWith('cli/') && kernelParts.test(file)) complain(`cli knows no kernel: not ${file}`);
      if (codec.test(path) && !isTest(path) && !codec.test(file) && to.layer !== 0) {
        complain(`a codec imports only lib/core and itself, not ${file}`);
      }
      if (from.part === to.part) continue;
      if (to.layer > from.layer || (to.layer === 3 && from.layer === 3 && to.part !== 'cli')) {
        complain(`${from.part} (layer ${from.layer}) may not import ${file} (layer ${to.layer})`);
      } else if (to.layer === 2 && from.layer === 2 && !isTest(path)) {
        const allowed = sideways.some((arrow) => arrow.from === from.part && arrow.to.test(file));
        if (!allowed)
          complain(`${from.part} may not import ${file}: parts of one layer do not know each other`);
      }
    }
  }
  return [...problems, ...checkCycles(graph), ...checkAgentReach(graph)];
}

function checkCycles(graph: Graph): string[] {
  const files = new Map<string, Set<string>>();
  const libraries = new Map<string, Set<string>>();
  for (const [path, imports] of graph.importsOfFile) {
    const from = placeOf(path);
    for (const { file, typeOnly } of imports) {
      if (file === undefined) continue;
      if (!typeOnly) add(files, path, file);
      const to = placeOf(file);
      if (from.layer === 1 && to.layer === 1 && from.part !== to.part && !isTest(path))
        add(libraries, from.part, to.part);
    }
  }
  return [findCycle(files), findCycle(libraries)]
    .filter((cycle) => cycle !== undefined)
    .map((cycle) => `import cycle: ${cycle.join(' -> ')}`);
}

/** The agent reaches no Kubernetes client and no yargs, also not through others. */
function checkAgentReach(graph: Graph): string[] {
  const problems: string[] = [];
  const cameFrom = new Map<string, string>();
  const queue = [...graph.importsOfFile.keys()].filter((path) => path.startsWith('agent/') && !isTest(path));
  for (const path of queue) cameFrom.set(path, '');
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    for (const { file, specifier, typeOnly } of graph.importsOfFile.get(path) ?? []) {
      if (typeOnly) continue;
      if (file === undefined) {
        if (agentForbidden.test(specifier))
          problems.push(`${trail(cameFrom, path)}: the agent may not load ${specifier}`);
      } else if (!cameFrom.has(file)) {
        cameFrom.set(file, path);
        queue.push(file);
      }
    }
  }
  return problems;
}

function trail(cameFrom: ReadonlyMap<string, string>, end: string): string {
  const steps: string[] = [];
  for (let path: string | undefined = end; path !== undefined && path !== ''; path = cameFrom.get(path))
    steps.unshift(path);
  return steps.join(' -> ');
}

function add(map: Map<string, Set<string>>, key: string, value: string): void {
  const values = map.get(key);
  if (values === undefined) map.set(key, new Set([value]));
  else values.add(value);
}
