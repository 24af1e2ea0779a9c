// SPDX-License-Identifier: Apache-2.0
// agent-parent: starts its program again when it crashes, passes signals on, leaves no child behind, reaps orphans.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { afterEach, describe, it } from 'node:test';
import { eventually, PARENT } from './keeper-process.ts';

const isAlive = (pid: number): boolean => {
  if (!existsSync(`/proc/${pid}/stat`)) return false;
  return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
};

describe('agent-parent', { timeout: 300_000 }, () => {
  const started: ChildProcess[] = [];
  afterEach(() => {
    for (const child of started.splice(0)) child.kill('SIGKILL');
  });

  const begin = (argv: readonly string[], prefix: readonly string[] = []) => {
    const [program = '', ...args] = [...prefix, PARENT, ...argv];
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    started.push(child);
    const output = { out: '', err: '' };
    child.stdout.on('data', (chunk) => (output.out += String(chunk)));
    child.stderr.on('data', (chunk) => (output.err += String(chunk)));
    const exit = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
    const lines = (): string[] => output.out.trim().split('\n').filter(Boolean);
    return { child, output, lines, exit, pid: child.pid ?? -1 };
  };
  /** A shell that tells its process id, then goes on as `script` says. */
  const shell = (script: string): string[] => ['sh', '-c', `echo $$; ${script}`];
  const forever = shell('while :; do read -r x < /dev/zero & wait $!; done')
    .slice(0, 2)
    .concat('echo $$; exec sleep 1000');

  it('ends with the code of a program that ends well', async () => {
    const parent = begin(shell('exit 0'));
    assert.deepEqual(await parent.exit, [0, null]);
    assert.equal(parent.lines().length, 1);
  });

  it('starts a killed program again at once, and is named after how often', async () => {
    const parent = begin(forever);
    const [first] = await eventually('the first', () => parent.lines().length === 1 && parent.lines());
    process.kill(Number(first), 'SIGKILL');
    const [, second] = await eventually('the second', () => parent.lines().length === 2 && parent.lines());
    assert.notEqual(first, second);
    // It takes the name after it has started the program, which may be quicker.
    const name = (): string => readFileSync(`/proc/${parent.pid}/comm`, 'utf8');
    await eventually('its name', () => name() === 'parent:2\n');
    // It comes through another pipe.
    await eventually('it says so', () => /"signal":9.*"pauseMs":0/.test(parent.output.err));
    parent.child.kill('SIGTERM');
    assert.deepEqual(await parent.exit, [128 + 15, null]);
    assert.equal(isAlive(Number(second)), false);
  });

  it('pauses longer and longer between short lives', async () => {
    const parent = begin(shell('exit 3'));
    await eventually('six lives', () => parent.output.err.split('\n').length > 6);
    const pauses = [...parent.output.err.matchAll(/"code":3,.*"pauseMs":(\d+)/g)].map((match) =>
      Number(match[1]),
    );
    assert.deepEqual(pauses.slice(0, 6), [0, 100, 200, 400, 800, 1600]);
    // In a pause there is nobody to pass a signal on to.
    parent.child.kill('SIGTERM');
    assert.deepEqual(await parent.exit, [128 + 15, null]);
  });

  it('passes signals on and answers SIGTERM with the code of the program', async () => {
    const parent = begin([
      'sh',
      '-c',
      'for s in HUP INT USR1 USR2; do trap "echo $s" $s; done; trap "echo TERM; exit 7" TERM; echo ready; while :; do sleep 0.05; done',
    ]);
    await eventually('it is ready', () => parent.output.out.includes('ready'));
    for (const name of ['HUP', 'USR1', 'USR2', 'TERM'] as const) {
      parent.child.kill(`SIG${name}`);
      await eventually(`SIG${name} arrives`, () => parent.lines().includes(name));
    }
    assert.deepEqual(await parent.exit, [7, null]);
    assert.equal(parent.lines().filter((line) => line === 'ready').length, 1);
  });

  it('leaves no child behind when it is killed', async () => {
    const parent = begin(forever);
    const [pid] = await eventually('the program', () => parent.lines().length === 1 && parent.lines());
    parent.child.kill('SIGKILL');
    await parent.exit;
    await eventually('the program is gone', () => !isAlive(Number(pid)));
  });

  it('does not try again what cannot be executed', async () => {
    const parent = begin(['/nonexistent/program']);
    assert.deepEqual(await parent.exit, [127, null]);
    assert.match(parent.output.err, /No such file/);
  });

  it('as process 1 of a container it reaps orphans', async () => {
    // The double fork leaves orphans that end; sooner or later there is no zombie.
    const script =
      '(sh -c "exit 0" & ) ; (sleep 0.2 &) ; sleep 0.6; while grep -qs "^State:.*Z" /proc/[0-9]*/status; do sleep 0.05; done; echo done; exec sleep 1000';
    const parent = begin(
      ['sh', '-c', script],
      ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child'],
    );
    await eventually('it has looked', () => parent.output.out.includes('done'));
    assert.equal(parent.output.out, 'done\n');
  });

  it('runs its program with the signals as they were', async () => {
    const parent = begin(['sh', '-c', 'grep -E "^Sig(Blk)" /proc/self/status']);
    assert.deepEqual(await parent.exit, [0, null]);
    assert.match(parent.output.out, /^SigBlk:\t0+\n$/);
  });
});
