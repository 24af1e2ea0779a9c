// SPDX-License-Identifier: Apache-2.0
// The self-check's connections from pods: they come to the agent as an application's do, and say so when they do not.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { LAYOUT } from '#lib/bpf/abi.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { createTestConnects, type TestedPod } from '../../agent/node/test-connects.ts';
import { repository, TestNode, type TestPod } from './harness.ts';

const program = join(repository, 'build/connect-test');

describe('test connections', () => {
  let node: TestNode;
  let pods: TestPod[];
  const lines: LogLine[] = [];
  before(() => {
    execFileSync('make', ['-s', '-C', join(repository, 'agent/connect-test')]);
    node = new TestNode('tc');
    pods = [node.pod('a'), node.pod('b')];
    for (const pod of pods) pod.enrol();
  });
  after(() => node.close());

  const tested = (): TestedPod[] =>
    node.redirection.podChecks().flatMap(({ uid, testable }) => {
      const how = testable();
      return how === undefined ? [] : [{ uid, ...how }];
    });
  const run = async (which = program) =>
    createTestConnects({ program: which, podsCgroup: node.podsCgroup, log: recordingLog(lines) })(tested());

  it('come to the agent from every pod, over both families', async () => {
    assert.equal(tested().length, 2);
    assert.deepEqual([...(await run())], []);
    for (const pod of pods) {
      const { record } = await pod.next();
      assert.ok(record?.kind === 'outbound');
      assert.deepEqual([record.ip, record.port], ['192.0.2.1', 9]);
    }
    const six = tested().map((pod) => ({ ...pod, family: 6 as const }));
    const test = createTestConnects({ program, podsCgroup: node.podsCgroup, log: recordingLog(lines) });
    assert.deepEqual([...(await test(six))], []);
    for (const pod of pods) assert.equal((await pod.next()).record?.kind, 'outbound');
    assert.deepEqual(lines, []);
    assert.deepEqual(
      readdirSync(node.podsCgroup).filter((name) => name.startsWith('nodemesh-check')),
      [],
      'a cgroup stays behind',
    );
  });

  it('say which pod they are refused in', async () => {
    await pods[1]?.stopListening();
    assert.deepEqual([...(await run())], [[pods[1]?.description.uid, 'ECONNREFUSED']]);
    pods[1]?.listen();
    assert.equal((await pods[0]?.next())?.direction, 'outbound');
  });

  it('go astray where the hook does not run, and come again when it does', async () => {
    const links = join(node.bpffs, 'nodemesh', String(LAYOUT), 'links');
    for (const name of readdirSync(links)) {
      const link = node.loader.openLink(join(links, name));
      link?.detach();
      link?.close();
    }
    assert.deepEqual([...(await run()).keys()].sort(), pods.map(({ description }) => description.uid).sort());
    node.redirection.checkNode();
    assert.deepEqual([...(await run())], []);
  });

  it('without their program nothing is said about pods, and it is logged', async () => {
    lines.length = 0;
    assert.deepEqual([...(await run('/does/not/exist'))], []);
    assert.match(lines[0]?.message ?? '', /no test connections can be made/);
    assert.ok(!existsSync(join(node.podsCgroup, `nodemesh-check-${process.pid}`)));
  });
});
