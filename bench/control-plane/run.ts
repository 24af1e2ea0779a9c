// SPDX-License-Identifier: Apache-2.0
// How destination grows: services, endpoints, agents. `node bench/control-plane/run.ts [--folder] [--agents N]
// [--services N] [--endpoints N] [--changes N]`; without --folder on the test cluster that $CLUSTER names, which
// should have no other work and gets thousands of objects: take it down afterwards.

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { DEFAULT_NAME } from '../../test/kind/layout.ts';
import { killPart } from '../../test/kind/machine.ts';
import { requireCluster } from '../../test/kind/notes.ts';
import { destinationRuntime } from '../../install/objects/destination.ts';
import { percentile } from '../statistics.ts';
import { Agents } from './agents.ts';
import { createFolderStage } from './folder-stage.ts';
import { createKubernetesStage } from './kubernetes-stage.ts';
import { podsOf, type Population } from './population.ts';
import type { ServeFacts, ServeReady } from './serve.ts';
import { inParallel, type Stage } from './stage.ts';

/** Of each agent. */
const GETS = 50;
const PROFILES = 20;
/** Agents that come at the same time; a rolling restart of agents has fewer. */
const AGENTS_AT_ONCE = 4;
const CHANGES_PER_SECOND = 50;

const { values } = parseArgs({
  options: {
    folder: { type: 'boolean', default: false },
    agents: { type: 'string', default: '200' },
    services: { type: 'string', default: '1000' },
    endpoints: { type: 'string', default: '10000' },
    changes: { type: 'string', default: '500' },
  },
});

const population: Population = {
  services: Number(values.services),
  endpoints: Number(values.endpoints),
  agents: Number(values.agents),
};
const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
const ms = (value: number): string => `${value.toFixed(0)} ms`;
const times = (what: string, samples: readonly number[]): void =>
  say(
    `${what}: median ${ms(percentile(samples, 0.5))}, p99 ${ms(percentile(samples, 0.99))}, longest ${ms(Math.max(...samples))} (${samples.length})`,
  );
const say = (line: string): void => console.log(line);

async function openStage(): Promise<Stage> {
  if (values.folder) return createFolderStage();
  const layout = requireCluster(process.env['CLUSTER'] ?? DEFAULT_NAME);
  // Nothing here sends packets, and rules for thousands of endpoints are the work of others.
  for (const node of layout.nodes) await killPart(node, 'kube-proxy').catch(() => undefined);
  return createKubernetesStage(layout);
}

async function facts(child: ChildProcess): Promise<ServeFacts> {
  child.send({});
  const [answer] = (await once(child, 'message')) as [ServeFacts];
  return answer;
}

const stage = await openStage();
let child: ChildProcess | undefined;
try {
  let beganMs = performance.now();
  await stage.make(population);
  say(
    `${population.endpoints} endpoints in ${population.services} services, ${population.agents} agents; made in ${ms(performance.now() - beganMs)}`,
  );
  child = fork(join(import.meta.dirname, 'serve.ts'), [JSON.stringify(stage.source)], {
    execArgv: ['--expose-gc'],
    env: { ...process.env, ...destinationRuntime },
  });
  const [server] = (await once(child, 'message')) as [ServeReady];
  say(
    `cluster read in ${ms(server.syncMs)}; memory then ${megabytes(server.memory.rss)}, heap ${megabytes(server.memory.heapUsed)}`,
  );

  const pods = podsOf(population);
  const agents = new Agents({
    population,
    pods,
    server,
    token: (index) => stage.agentToken(index),
    gets: GETS,
    profiles: PROFILES,
  });
  beganMs = performance.now();
  const indexes = Array.from({ length: population.agents }, (_, index) => index);
  await inParallel(indexes, AGENTS_AT_ONCE, (index) => agents.open(index));
  say(`all agents connected after ${ms(performance.now() - beganMs)}`);
  times('first answers', agents.firstAnswersMs);
  const before = await facts(child);

  const told: number[] = [];
  const written: number[] = [];
  let sent = 0;
  const change = async (ready: boolean, count: number): Promise<void> => {
    const step = Math.floor(pods.length / count);
    const waiting: Promise<void>[] = [];
    for (let index = 0; index < count; index++) {
      const pod = pods[index * step];
      if (pod === undefined) break;
      const startMs = performance.now();
      const heard = agents.changed(pod, ready).then(() => void told.push(performance.now() - startMs));
      const write = stage.setReady(pod, ready).then(() => void written.push(performance.now() - startMs));
      waiting.push(Promise.all([write, heard]).then(() => undefined));
      sent++;
      await new Promise((resolve) => setTimeout(resolve, 1000 / CHANGES_PER_SECOND));
    }
    await Promise.all(waiting);
  };
  const changes = Number(values.changes);
  beganMs = performance.now();
  await change(false, changes);
  await change(true, changes);
  const seconds = (performance.now() - beganMs) / 1000;
  say(`${sent} changes in ${seconds.toFixed(0)} s, ${agents.updates} updates`);
  times('from a change to its last receiver', told);
  times('of it, until the change was written', written);
  const after = await facts(child);
  say(
    `memory ${megabytes(after.memory.rss)}, heap ${megabytes(after.memory.heapUsed)}; CPU while changing ${((after.cpuMs - before.cpuMs) / seconds / 10).toFixed(0)} % of a core`,
  );
  say(`broken streams: ${agents.broken}`);
  const kept = /^nodemesh_kubernetes_(?:watches|lists|relists)_total.*$/gm;
  for (const [line] of after.metrics.matchAll(kept)) say(line);
  agents.close();
} finally {
  child?.disconnect();
  await stage.close();
}
