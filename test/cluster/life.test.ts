// SPDX-License-Identifier: Apache-2.0
// A cluster comes and goes without a trace, also when whoever made it was killed in the middle. On clusters of its own.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, test } from 'node:test';
import { until } from '../faults/until.ts';
import { takeDown } from '../kind/down.ts';
import { clusterLayout } from '../kind/layout.ts';
import { machinePid } from '../kind/machine.ts';
import { clusterState } from '../kind/notes.ts';
import { difference, machineFacts } from './machine-facts.ts';

const NAME = 'life';
const MAIN = join(import.meta.dirname, '../kind/main.ts');
const PATIENCE_MS = 180_000;
const layout = clusterLayout(NAME, 1);

const run = (...args: readonly string[]) =>
  spawnSync(process.execPath, [MAIN, ...args, '--name', NAME], { encoding: 'utf8', timeout: 200_000 });

/** What goes with pods of another cluster that were on their way out when this began. */
const ofPods = /^- (\w+:\[|cgroup |mount |BPF )/;

describe('a cluster', { timeout: 800_000 }, () => {
  afterEach(async () => {
    await takeDown(NAME);
  });

  /** The kernel takes namespaces apart in its own time. */
  const nothingNew = async (before: ReadonlySet<string>): Promise<void> => {
    let left: string[] = [];
    await until('the machine is as before', PATIENCE_MS, () => {
      left = difference(before, machineFacts()).filter((fact) => !ofPods.test(fact));
      return left.length === 0;
    }).catch((error: unknown) => assert.fail(`${String(error)}\n${left.slice(0, 20).join('\n')}`));
  };

  test('comes up, says so, comes up again at once, and goes without leaving anything', async () => {
    const before = machineFacts();
    const up = run('up', '--nodes', '1');
    assert.equal(up.status, 0, up.stderr);
    assert.match(up.stdout, /the cluster "life" with 1 nodes is ready after /);
    assert.equal(clusterState(NAME), 'up');
    assert.notDeepEqual(difference(before, machineFacts()), []);

    const first = machinePid(layout.control);
    assert.equal(run('up', '--nodes', '1').status, 0);
    assert.equal(machinePid(layout.control), first, 'the same cluster');
    const other = run('up', '--nodes', '2');
    assert.equal(other.status, 1);
    assert.match(other.stderr, /up with another number of nodes; take it down first/);

    const down = run('down');
    assert.deepEqual([down.status, down.stdout], [0, 'the cluster "life" is gone\n'], down.stderr);
    await nothingNew(before);
    assert.equal(run('down').stdout, 'there was no cluster "life"\n');
  });

  test('that was killed while it came up goes without leaving anything', async () => {
    const before = machineFacts();
    const maker = spawn(process.execPath, [MAIN, 'up', '--nodes', '1', '--name', NAME], { stdio: 'ignore' });
    await until('its API server starts', PATIENCE_MS, () =>
      existsSync(join(layout.control.root, 'var/log/kube-apiserver.log')),
    );
    // So that it is still at it, however long this takes.
    maker.kill('SIGSTOP');
    assert.equal(clusterState(NAME), 'being made');
    assert.match(run('up', '--nodes', '1').stderr, /another process is making the cluster/);
    maker.kill('SIGKILL');
    await until('it is known to be abandoned', PATIENCE_MS, () => clusterState(NAME) === 'left over');
    assert.equal(await takeDown(NAME), true);
    await nothingNew(before);
    assert.equal(clusterState(NAME), 'absent');
  });
});
