// SPDX-License-Identifier: Apache-2.0
// What the tests of restarts, upgrades, keepers and workers share: the scene, the loads on it, and the judgement of
// what failed while something of an agent was killed.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LocalMesh } from '../../local/harness.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { type Series, scrape, total } from '../e2e/scrape.ts';
import { echoServer, HTTP_PORT, type Load, startLoad, type StartLoad } from './load.ts';
import { assertOnly, type FailureKind, type LoadReport } from './report.ts';
import { countedMs } from './pauses.ts';
import { until } from './until.ts';

/** Low: what is tested is not how much a thread that has just started can do. */
export const RATE = 20;
/** Requests wait for the next agent or worker as long as it takes. */
const PATIENCE_MS = 60_000;
/** From the end of a process until its peers have seen the ends of their connections, on a busy machine. */
const SEEN_MS = 2_000;
const NOTICED_MS = 4_000;
const GONE_POLL_MS = 5;
/** Agents give a TLS handshake 10 s: a connection that waits longer in a backlog is given up by its own side. */
const HANDSHAKE_MS = 9_500;

/** A server and a client on node1, whose agent is hurt; a client on node2, whose agent is not. */
export const scene = (...more: object[]): object[] => [
  namespace('mesh', meshed),
  ...echoServer('mesh', 'echo', { node: 'node1' }),
  pod('mesh', 'near', [], { node: 'node1' }),
  pod('mesh', 'far', [], { node: 'node2' }),
  ...more,
];

/**
 * Requests of another node's pods wait for the next agent as long as they do here, however slow the machine is; by
 * default they would be told 504 after 3 s.
 */
export const patientAgents = { NODEMESH_FAILFAST: '25s' };

/** Loads from these pods at once. */
export async function startLoads(
  mesh: LocalMesh,
  from: readonly ('near' | 'far')[],
  options: Partial<StartLoad> = {},
): Promise<readonly Load[]> {
  return Promise.all(
    from.map((name) =>
      startLoad(mesh, {
        from: { ns: 'mesh', pod: name },
        to: 'echo',
        rate: RATE,
        connections: 8,
        timeoutMs: PATIENCE_MS,
        ...options,
      }),
    ),
  );
}

export const stopAll = async (loads: readonly Load[]): Promise<readonly LoadReport[]> =>
  Promise.all(loads.map((load) => load.stop()));

const BEGIN = 'killed';
const GONE = 'gone';

/** Does harm, and marks when it began and when what was hurt was gone. */
export async function harm(loads: readonly Load[], act: () => Promise<void>): Promise<void> {
  for (const load of loads) load.mark(BEGIN);
  await act();
  for (const load of loads) load.mark(GONE);
}

/** kill -9 of the agent, and back when it is gone with everything that it held. */
export async function killAgent(mesh: LocalMesh, loads: readonly Load[]): Promise<void> {
  const pid = await mesh.node('node1').agentPid();
  await harm(loads, async () => {
    process.kill(pid, 'SIGKILL');
    while (existsSync(`/proc/${pid}`)) await sleep(GONE_POLL_MS);
  });
}

/** The agent ends without a next one, which is started by hand. */
export async function stopAgent(mesh: LocalMesh, loads: readonly Load[]): Promise<void> {
  await harm(loads, async () => mesh.node('node1').stopAgent());
}

const PROBE = ['curl', '-s', '-f', '-o', '/dev/null', '--max-time', '10', `http://echo:${HTTP_PORT}/`];

/** Until a request of each of the clients is answered again; how long that took. */
export async function servedAgain(mesh: LocalMesh): Promise<number> {
  const begun = performance.now();
  await Promise.all(
    ['near', 'far'].map(async (name) =>
      until(`requests of ${name} are answered again`, 60_000, async () =>
        (await mesh.exec(name, PROBE, { ns: 'mesh' })).code === 0 ? true : undefined,
      ),
    ),
  );
  return Math.round(performance.now() - begun);
}

/** How a lost connection looks to its client; an agent between says 502. Nothing is refused, nothing hangs. */
const lost: readonly FailureKind[] = [
  'reset-kept-before',
  'reset-kept-amid',
  'reset-new',
  'eof',
  'bad-status',
];

/**
 * Only requests on connections that the dead one held have failed: those asked before it was gone, and told at once.
 * What was asked later, and what waited for the next one, was answered, unless the next one took its time: a start takes
 * a second or two, but many on a machine that runs much else.
 */
export function assertLostOnly(
  report: LoadReport,
  demands: { readonly minRate: number; readonly slowestMs: number },
): void {
  const deaths = report.marks
    .filter(({ name }) => name === BEGIN)
    .map(({ atMs }, index) => ({
      beginMs: atMs,
      goneMs: report.marks.filter(({ name }) => name === GONE)[index]?.atMs ?? Infinity,
    }));
  assert.ok(deaths.length > 0);
  const strange = report.failures.filter(
    ({ atMs, dueMs, kind, detail }) =>
      (kind === 'bad-status' && !detail.startsWith('502')) ||
      !deaths.some(
        ({ beginMs, goneMs }) =>
          atMs >= beginMs &&
          (atMs - dueMs >= HANDSHAKE_MS ||
            // Requests share a connection, and came while it waited.
            (detail.includes('TLS handshake') && atMs - goneMs >= HANDSHAKE_MS) ||
            (countedMs(goneMs, atMs) <= NOTICED_MS && countedMs(goneMs, dueMs) <= SEEN_MS)),
      ),
  );
  assert.deepEqual(strange, [], JSON.stringify(deaths));
  assertOnly(report, { allow: lost.map((kind) => ({ kind })), minRate: demands.minRate });
  assert.ok(
    report.latencyMaxMs <= demands.slowestMs,
    `the slowest answer took ${Math.round(report.latencyMaxMs)} ms, ${demands.slowestMs} at most`,
  );
}

/** The slowest answer of a request that waited for the next agent or worker, on a machine that is busy. */
export const SLOWEST_MS = 50_000;

/** Waits until node1's agent has its listeners in the keeper again. */
export async function keeperConnected(mesh: LocalMesh): Promise<void> {
  await until('the agent keeps its listeners', 20_000, async () =>
    total(await scrape(mesh, 'node1'), 'nodemesh_keeper_connected', {}) === 1 ? true : undefined,
  );
}

/** Counters never go back, except with a new process_start_time_seconds. */
export class CounterWatch {
  readonly #last = new Map<string, { readonly startedAt: number; readonly value: number }>();
  /** When counting began, for each pod and ('') the agent: every value that was seen. */
  readonly lives = new Map<string, Set<number>>();

  look(series: readonly Series[]): void {
    const started = new Map<string, number>();
    for (const { name, labels, value } of series) {
      if (name === 'process_start_time_seconds') started.set(ownerOf(labels), value);
    }
    for (const { name, labels, value } of series) {
      if (!/_(total|count|bucket|sum)$/.test(name)) continue;
      const owner = ownerOf(labels);
      const startedAt = started.get(owner);
      assert.ok(startedAt !== undefined, `nothing says when ${name} of "${owner}" began`);
      const seen = this.lives.get(owner) ?? new Set();
      this.lives.set(owner, seen.add(startedAt));
      const key = `${name}${JSON.stringify(labels)}`;
      const last = this.#last.get(key);
      if (last !== undefined && value < last.value) {
        assert.ok(startedAt > last.startedAt, `${key} went from ${last.value} back to ${value}`);
      }
      this.#last.set(key, { startedAt, value });
    }
  }

  /** How often counting has begun, over each pod and the agent. */
  assertLives(ofPods: number, ofAgent = ofPods): void {
    assert.deepEqual(Object.fromEntries([...this.lives].map(([owner, seen]) => [owner, seen.size])), {
      '': ofAgent,
      'mesh/echo': ofPods,
      'mesh/near': ofPods,
    });
  }
}

const ownerOf = (labels: Series['labels']): string =>
  labels['pod'] === undefined ? '' : `${labels['namespace']}/${labels['pod']}`;
