// SPDX-License-Identifier: Apache-2.0
// A hundred pods of a hundred accounts on one node: how long CNI ADD takes for each, and how much memory the agent
// has once every one of them has its certificate and has made a request over mutual TLS.

import { appendFileSync, chmodSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { accountObject, type Ground, NAMESPACE, onGround, podObject } from './ground.ts';
import { waitFor } from './peers.ts';
import { pssBytesOf } from './processes.ts';
import type { Row } from './results.ts';
import { median, percentile, spread } from './statistics.ts';

const PODS = 100;
const ADD_P99_MS = 100;
const PSS_MB = 200;
const SERVER_PORT = 8080;

const server = podObject({
  name: 'server',
  node: 'node2',
  meshed: true,
  command: ['nginx', '-e', 'stderr', '-c', join(import.meta.dirname, 'peers', 'origin.conf')],
  readyPort: SERVER_PORT,
});

export async function cniAdd(): Promise<Row[]> {
  return onGround([server], {}, async (ground) => [await measureAdds(ground)]);
}

export async function agentMemory(): Promise<Row[]> {
  return onGround([server], {}, async (ground) => {
    await makePods(ground);
    return [await measureMemory(ground)];
  });
}

/** One after the other, each as soon as the one before is ready: what is measured is not their queue. */
async function makePods(ground: Ground): Promise<void> {
  for (let index = 0; index < PODS; index++) {
    const name = `p${index}`;
    const pod = podObject({
      name,
      node: 'node1',
      meshed: true,
      account: name,
      command: ['sleep', 'infinity'],
    });
    await ground.mesh.apply(accountObject(name), pod);
    await ground.mesh.waitReady();
  }
}

async function measureAdds(ground: Ground): Promise<Row> {
  const plugin = join(ground.mesh.node('node1').layout.cniBinDir, 'nodemesh-cni');
  const times = await timedPlugin(plugin, ground.dir, () => makePods(ground));
  if (times.length < PODS) throw new Error(`${times.length} ADDs for ${PODS} pods`);
  const p99 = percentile(times, 0.99);
  return {
    bench: 'cni-add',
    load: `${PODS} pods in turn`,
    unit: 'ms p99',
    value: p99,
    peer: '',
    bound: ADD_P99_MS,
    ok: p99 <= ADD_P99_MS,
    spread: spread(times),
    details: { medianMs: median(times), maxMs: Math.max(...times), timesMs: times },
  };
}

/** Puts a script in the plugin's place that notes how long each ADD takes, as the runtime sees it. */
async function timedPlugin(plugin: string, dir: string, use: () => Promise<void>): Promise<number[]> {
  const notes = join(dir, 'adds');
  appendFileSync(notes, '');
  const script = [
    '#!/bin/bash',
    'started=$EPOCHREALTIME',
    `'${plugin}.real' "$@"`,
    'code=$?',
    'ended=$EPOCHREALTIME',
    `[ "$CNI_COMMAND" != ADD ] || echo "$started $ended $code" >>'${notes}'`,
    'exit $code',
    '',
  ].join('\n');
  if (!existsSync(plugin)) throw new Error(`${plugin} is missing`);
  writeFileSync(`${plugin}.timed`, script);
  chmodSync(`${plugin}.timed`, 0o755);
  renameSync(plugin, `${plugin}.real`);
  renameSync(`${plugin}.timed`, plugin);
  try {
    await use();
    return readFileSync(notes, 'utf8')
      .trim()
      .split('\n')
      .map((line) => {
        const [started, ended] = line.split(' ').map(Number);
        return ((ended ?? Number.NaN) - (started ?? Number.NaN)) * 1000;
      });
  } finally {
    renameSync(`${plugin}.real`, plugin);
  }
}

async function measureMemory(ground: Ground): Promise<Row> {
  const url = `http://${await ground.podIp('server')}:${SERVER_PORT}/`;
  for (let index = 0; index < PODS; index++) {
    const answer = await ground.run(`p${index}`, ['curl', '-sS', '--max-time', '10', url]);
    if (answer !== 'hello') throw new Error(`p${index} was answered "${answer}"`);
  }
  let secured = 0;
  await waitFor(
    `${PODS} pods with a request over mutual TLS in the metrics`,
    async () => {
      secured = podsWithMutualTls(await ground.metrics('node1'));
      return secured >= PODS;
    },
    20_000,
  );
  const pss = pssBytesOf(ground.agentPids('node1')) / 1e6;
  return {
    bench: 'agent-memory',
    load: `${PODS} pods, ${PODS} accounts, ${secured} with a request over mTLS`,
    unit: 'MB PSS',
    value: pss,
    peer: '',
    bound: PSS_MB,
    ok: pss <= PSS_MB,
    spread: 0,
    details: { processes: ground.agentPids('node1').length },
  };
}

/** How many pods of the namespace have an outbound request to an endpoint whose identity was proven. */
function podsWithMutualTls(metrics: string): number {
  const pods = new Set<string>();
  for (const line of metrics.split('\n')) {
    if (!line.startsWith('request_total{') || !line.includes('direction="outbound"')) continue;
    if (!line.includes('tls="true"') || !line.includes(`namespace="${NAMESPACE}"`)) continue;
    const pod = /[{,]pod="(p\d+)"/.exec(line)?.[1];
    if (pod !== undefined && !line.endsWith(' 0')) pods.add(pod);
  }
  return pods.size;
}
