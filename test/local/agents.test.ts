// SPDX-License-Identifier: Apache-2.0
// What the harness and the command line do to a node's agent and keeper: kill, restart, stop, start. What pods notice
// of it is tested elsewhere.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connectKeeper } from '#lib/keeper/client.ts';
import { type LocalMesh, type MeshNode, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';

const MESH = join(import.meta.dirname, '..', '..', 'bin', 'mesh');
const NAME = 'kp-agents';
const PATIENCE_MS = 60_000;

const eventually = async (what: string, look: () => boolean | Promise<boolean>): Promise<boolean> =>
  until(what, PATIENCE_MS, look);

describe("a local node's agent and keeper", { timeout: 500_000 }, () => {
  let mesh: LocalMesh;
  let node: MeshNode;
  before(async () => {
    mesh = await startMesh({
      name: NAME,
      nodes: 1,
      keeperLimitMs: 5000,
      agentEnv: { NODEMESH_SHUTDOWN_GRACE: '1s' },
    });
    node = mesh.node('node1');
  });
  after(() => mesh.down());

  const program = async (name: string) => (await mesh.status()).programs.find((one) => one.name === name);
  const command = (pid: number): string => readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  const parentOf = (pid: number): number =>
    Number(/^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);

  test('the agent runs under its parent, the keeper apart from both', async () => {
    const pid = await node.agentPid();
    const parent = parentOf(pid);
    assert.match(command(pid), /node\0.*agent\/main\.ts/);
    assert.match(command(parent), /agent-parent\0/);
    const keeper = await node.keeperPid();
    assert.match(command(keeper).replaceAll('\0', ' '), /keeper --socket \S+ --limit-ms 5000 $/);
    const group = (of: number): string => readFileSync(`/proc/${of}/cgroup`, 'utf8');
    assert.notEqual(group(keeper), group(pid));
    assert.equal(group(parent), group(pid));
  });

  test('a killed agent is started again by its parent, and that is counted', async () => {
    const pid = await node.agentPid();
    const parent = parentOf(pid);
    await node.restartAgent({ kill: true });
    const next = await node.agentPid();
    assert.notEqual(next, pid);
    assert.equal(parentOf(next), parent);
    assert.equal((await program('agent of node1'))?.starts, 2);
    await node.killAgent('SIGKILL');
    await eventually('it is counted', async () => (await program('agent of node1'))?.starts === 3);
    await node.agentReady();
  });

  test('an agent that was told to end is followed by one with another parent; the log goes on', async () => {
    const pid = await node.agentPid();
    const parent = parentOf(pid);
    await node.restartAgent();
    assert.equal(existsSync(`/proc/${pid}`), false);
    assert.notEqual(parentOf(await node.agentPid()), parent);
    const log = readFileSync(join(node.layout.logDir, 'agent.log'), 'utf8');
    assert.ok(log.split('the agent serves').length > 4, 'every start is in the log');
  });

  test('a stopped agent stays away until it is started', async () => {
    const pid = await node.agentPid();
    const parent = parentOf(pid);
    await node.stopAgent();
    assert.deepEqual([existsSync(`/proc/${pid}`), existsSync(`/proc/${parent}`)], [false, false]);
    assert.equal(await program('agent of node1'), undefined);
    await assert.rejects(node.restartAgent(), /was stopped; start it first/);
    await node.startAgent();
    assert.notEqual(await node.agentPid(), pid);
    await assert.rejects(node.startAgent(), /runs/);
  });

  test('a killed keeper is started again on the same path', async () => {
    const pid = await node.keeperPid();
    await node.killKeeper();
    await eventually('there is another', async () => {
      const next = await program('keeper of node1');
      return next?.pid !== undefined && next.pid !== pid;
    });
    await eventually('it answers', () => {
      try {
        const client = connectKeeper(join(node.layout.runDir, 'keeper.sock'), { timeoutMs: 2000 });
        assert.equal(client.stats().limitMs, 5000);
        client.close();
        return true;
      } catch {
        return false; // not there yet
      }
    });
  });

  test('an upgrade puts a second agent beside the first, which ends when the second is ready', async () => {
    const pid = await node.agentPid();
    const upgrade = node.upgradeAgent();
    await eventually('both run', async () => (await node.agentPid()) !== pid && existsSync(`/proc/${pid}`));
    assert.equal((await program('agent of node1 (earlier 1)'))?.pid, pid);
    await upgrade;
    assert.equal(existsSync(`/proc/${pid}`), false);
    assert.equal(await program('agent of node1 (earlier 1)'), undefined);
    await node.agentReady();
  });

  test('the command line does the same', async () => {
    const run = (...args: string[]) =>
      spawnSync(MESH, ['local', ...args, '--name', NAME], { encoding: 'utf8', timeout: 120_000 });
    const before = await node.agentPid();
    const restarted = run('restart-agent', 'node1', '--kill');
    assert.equal(restarted.status, 0, restarted.stderr);
    const pid = await node.agentPid();
    assert.equal(restarted.stdout, `the agent of node1 is process ${pid}\n`);
    assert.notEqual(pid, before);
    const status = run('status');
    assert.match(status.stdout, new RegExp(`^agent of node1 +${pid} +\\d+$`, 'm'));
    assert.match(status.stdout, /^keeper of node1 +\d+ +2$/m);
    const wrong = run('restart-agent', 'node7');
    assert.equal(wrong.status, 1);
    assert.match(wrong.stderr, /no agent on node7; nodes are node1/);
    const rebooted = run('reboot', 'node1');
    assert.equal(rebooted.stdout, 'node1 has booted; its agent and its pods are starting\n', rebooted.stderr);
    assert.notEqual(await node.agentPid(), pid);
    await mesh.waitReady();
    assert.match(run('reboot', 'node7').stderr, /no node node7/);
  });

  test('an agent whose first addresses of the control plane lead nowhere uses the second ones', async () => {
    const environment = readFileSync(`/proc/${await node.agentPid()}/environ`, 'utf8').split('\0');
    const valueOf = (name: string) =>
      environment.find((one) => one.startsWith(`${name}=`))?.slice(name.length + 1);
    const [identity, destination] = ['IDENTITY', 'DESTINATION'].map((one) =>
      valueOf(`NODEMESH_${one}_ADDRESS`),
    );
    assert.ok(identity !== undefined && destination !== undefined);
    // Nothing listens at the one; on the nodes' network nobody has the other, so that a SYN gets no answer.
    const [refusing, silent] = ['127.0.0.1:1', '172.18.255.1:8086'];
    const file = join(node.layout.logDir, 'agent.log');
    await node.stopAgent();
    // With what the keeper knows the agent would serve without having reached anybody.
    await node.killKeeper();
    const earlier = readFileSync(file).length;
    await node.startAgent({
      env: {
        NODEMESH_IDENTITY_ADDRESS: `${refusing},${identity}`,
        NODEMESH_DESTINATION_ADDRESS: `${silent},${destination}`,
      },
    });
    const log = readFileSync(file).subarray(earlier).toString();
    const failure = (message: string) =>
      log
        .split('\n')
        .filter((line) => line.includes(`"${message} cannot be reached"`))
        .map((line) => JSON.parse(line) as { address: string; next: string; error: string })[0];
    const { address, next, error } = failure('identity') ?? {};
    assert.deepEqual([address, next], [refusing, identity], log);
    assert.match(error ?? '', /ECONNREFUSED/);
    assert.equal(failure('destination')?.next, destination, log);
    assert.match(log, /destination has told all workloads of the node/);
  });
});
