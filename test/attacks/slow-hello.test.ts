// SPDX-License-Identifier: Apache-2.0
// Half a TLS hello on each of 5,000 connections to one pod, which are opened anew when they are cut off: everybody
// is served as before, the attacked pod too; the agent's descriptors have an upper bound, and metrics and log tell.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { podNetns } from '../../local/layout.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { LogTail, requireUnharmed } from '../e2e/hostile-helpers.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { assertOnly, echoServer, type Load, startLoad } from '../faults/load.ts';
import { until } from '../faults/until.ts';

const ATTACKER = fileURLToPath(new URL('slow-hello.py', import.meta.url));
const CONNECTIONS = 5_000;
/** What waits at most (agent/proxy/pods/waiting-clients.ts), each with some that came within its sure second. */
const WAITING_MAX = 2_048;
const SURE = 1_100;
/** Cut off after ten seconds as they are, a busy machine does not get all 5,000 of them to be there at once. */
const HELD_MIN = 256;
const WORKERS = 1;
const HELLO_LIMIT_MS = 10_000;
const MESH_PORT = 4143;
const LINES_MAX = 25;
/** The machine of the test is busy with the attack, too. */
const PATIENCE_MS = 20_000;

describe('slow clients', () => {
  let mesh: LocalMesh;
  let victim = '';
  before(async () => {
    mesh = await startMesh({
      name: 'c-slow',
      nodes: 2,
      agentEnv: { NODEMESH_WORKERS: String(WORKERS) },
      objects: [
        namespace('shop', meshed),
        namespace('plain'),
        ...echoServer('shop', 'victim', { node: 'node1' }),
        ...echoServer('shop', 'neighbour', { node: 'node1' }),
        pod('shop', 'client', [], { node: 'node2' }),
        pod('plain', 'attacker', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    victim = (await mesh.pod('victim', 'shop')).status?.podIP ?? '';
  });
  after(async () => mesh.down());

  const descriptors = async (): Promise<number> => {
    const parent = await mesh.node('node1').agentPid();
    return readdirSync(`/proc/${parent}/fd`).length;
  };

  it('5,000 clients that are slow on purpose slow nobody else, and are named', async () => {
    const log = new LogTail(join(mesh.node('node1').layout.logDir, 'agent.log'));
    const quiet = await descriptors();
    const argv = ['netns', 'exec', podNetns(mesh.name, 'plain', 'attacker')];
    const attack = spawn(
      'ip',
      [...argv, 'python3', ATTACKER, victim, String(MESH_PORT), String(CONNECTIONS)],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const loads: Load[] = [];
    let held = 0;
    try {
      let cut = 0;
      let tried = 0;
      createInterface({ input: attack.stdout }).on('line', (line) => {
        const said = JSON.parse(line) as { open: number; cut: number };
        cut = said.cut;
        tried = said.open + said.cut;
      });
      await until('5,000 connections', 60_000, () => (tried >= CONNECTIONS ? true : undefined));
      for (const to of ['victim', 'neighbour'])
        loads.push(
          await startLoad(mesh, {
            from: { ns: 'shop', pod: 'client' },
            to,
            rate: 20,
            connections: 2,
            timeoutMs: PATIENCE_MS,
          }),
        );
      // Longer than the patience with one client: the first of those who stay are cut off for their slowness.
      const overMs = Date.now() + HELLO_LIMIT_MS + 3_000;
      await until('the limits have held for a while', 60_000, async () => {
        held = await descriptors();
        return Date.now() > overMs && cut > CONNECTIONS ? true : undefined;
      });
      for (const load of loads.splice(0)) assertOnly(await load.stop(), { allow: [], minRate: 10 });
    } finally {
      attack.kill('SIGKILL');
      for (const load of loads) await load.stop();
    }
    assert.ok(held - quiet > HELD_MIN, `the attack held ${held - quiet} descriptors only`);
    assert.ok(held - quiet < WORKERS * (WAITING_MAX + SURE), `${held - quiet} descriptors are held`);

    const metrics = await scrape(mesh, 'node1');
    const late = total(metrics, 'inbound_tcp_errors_total', {
      pod: 'victim',
      error: 'tls detection timeout',
    });
    const displaced = total(metrics, 'nodemesh_connections_refused_total', {
      pod: 'victim',
      reason: 'waiting',
    });
    if (held - quiet > WAITING_MAX + SURE / 2) assert.ok(displaced > 0, 'the limit did not bite');
    assert.ok(late + displaced >= CONNECTIONS / 2, `${late} cut off, ${displaced} displaced`);
    const attacker = (await mesh.pod('attacker', 'plain')).status?.podIP;
    const told =
      displaced > 0
        ? 'too many clients have not finished their TLS hello; the longest waiting one is closed'
        : 'a client of the mesh port sent no TLS hello in time';
    await log.until({ msg: told, pod: 'shop/victim', client: attacker });
    const perMessage = new Map<unknown, number>();
    for (const { msg } of log.lines()) perMessage.set(msg, (perMessage.get(msg) ?? 0) + 1);
    for (const [message, count] of perMessage)
      assert.ok(count <= LINES_MAX * 6, `${count} lines "${String(message)}"`);

    await until('the descriptors are free again', 60_000, async () =>
      (await descriptors()) < quiet + 100 ? true : undefined,
    );
    await requireUnharmed(mesh);
  });

  it('a few of them are cut off after the time for a hello, each with a line', async () => {
    const log = new LogTail(join(mesh.node('node1').layout.logDir, 'agent.log'));
    const argv = ['netns', 'exec', podNetns(mesh.name, 'plain', 'attacker')];
    const attack = spawn('ip', [...argv, 'python3', ATTACKER, victim, String(MESH_PORT), '3'], {
      stdio: 'ignore',
    });
    try {
      await until(
        'a line about a client without a hello',
        30_000,
        () =>
          log
            .lines()
            .some(
              ({ msg, pod: name, bytes }) =>
                msg === 'a client of the mesh port sent no TLS hello in time' &&
                name === 'shop/victim' &&
                bytes === 6,
            ) || undefined,
      );
    } finally {
      attack.kill('SIGKILL');
    }
  });
});
