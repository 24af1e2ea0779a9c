// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { handleCni } from './handle.ts';
import type { CniAddOutcome, CniNode, CniPod } from './node.ts';

const args = 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u-1';

function fakeNode(outcome: CniAddOutcome | Error = { outcome: 'enrolled' }) {
  const added: CniPod[] = [];
  const removed: string[] = [];
  const node: CniNode = {
    addPod: (pod) => {
      added.push(pod);
      return outcome instanceof Error ? Promise.reject(outcome) : Promise.resolve(outcome);
    },
    removePod: (containerId, uid) => {
      removed.push(`${containerId} ${uid}`);
      return Promise.resolve();
    },
  };
  return { added, removed, node };
}

// A namespace of any kind that is not this process's network namespace: the check compares inodes.
const OTHER_NETNS = '/proc/self/ns/mnt';

const result = {
  cniVersion: '1.0.0',
  interfaces: [
    { name: 'cni0', mac: '00:00:00:00:00:01' },
    { name: 'eth0', sandbox: OTHER_NETNS },
  ],
  ips: [
    { address: '10.1.0.1/24', interface: 0 },
    { address: '10.1.0.7/24', gateway: '10.1.0.1', interface: 1 },
    { address: 'fd00:0:0::7/64', interface: 1 },
  ],
  routes: [{ dst: '0.0.0.0/0' }],
  dns: { 'x-unknown': [1, 2] },
};

const config = (more: object = {}) =>
  JSON.stringify({ cniVersion: '1.0.0', name: 'k8s', type: 'nodemesh-cni', prevResult: result, ...more });

const env = (command: string, more: Record<string, string> = {}) =>
  new Map(
    Object.entries({
      CNI_COMMAND: command,
      CNI_CONTAINERID: 'c-1',
      CNI_NETNS: OTHER_NETNS,
      CNI_IFNAME: 'eth0',
      CNI_ARGS: args,
      ...more,
    }),
  );

async function codeOf(request: Parameters<typeof handleCni>[0], node = fakeNode().node): Promise<number> {
  const answer = await handleCni(request, node);
  assert.equal(answer.code, 1, answer.stdout);
  const parsed = JSON.parse(answer.stdout) as { code: number; msg: string; cniVersion: string };
  assert.ok(parsed.msg.startsWith('nodemesh: '));
  assert.match(parsed.cniVersion, /^[0-9.]+$/);
  return parsed.code;
}

describe('CNI ADD', () => {
  it('hands the pod to the node and passes the previous result on', async () => {
    const { node, added } = fakeNode();
    const answer = await handleCni({ env: env('ADD'), stdin: config() }, node);
    assert.deepEqual(JSON.parse(answer.stdout), result);
    assert.equal(answer.code, 0);
    assert.deepEqual(added, [
      {
        containerId: 'c-1',
        netnsPath: OTHER_NETNS,
        ifname: 'eth0',
        namespace: 'shop',
        name: 'web-1',
        uid: 'u-1',
        addresses: ['10.1.0.7', 'fd00::7'],
      },
    ]);
  });

  for (const version of ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0']) {
    it(`speaks ${version}`, async () => {
      const stdin = config({
        cniVersion: version,
        prevResult: { ips: [{ version: '4', address: '10.0.0.2/8' }] },
      });
      const answer = await handleCni({ env: env('ADD'), stdin }, fakeNode().node);
      assert.deepEqual(JSON.parse(answer.stdout), {
        ips: [{ version: '4', address: '10.0.0.2/8' }],
        cniVersion: version,
      });
    });
  }

  it('refuses versions without chained plugins and unknown ones with code 1', async () => {
    for (const cniVersion of ['0.2.0', '2.0.0', '1.0', undefined]) {
      assert.equal(await codeOf({ env: env('ADD'), stdin: config({ cniVersion }) }), 1);
    }
  });

  it('answers code 11 when the pod cannot be meshed now', async () => {
    const { node } = fakeNode({ outcome: 'try-again', reason: 'no certificate yet' });
    const answer = await handleCni({ env: env('ADD'), stdin: config() }, node);
    assert.deepEqual(JSON.parse(answer.stdout), {
      cniVersion: '1.0.0',
      code: 11,
      msg: 'nodemesh: no certificate yet',
    });
  });

  it('answers code 11 when the node fails, whatever the reason', async () => {
    assert.equal(await codeOf({ env: env('ADD'), stdin: config() }, fakeNode(new Error('boom')).node), 11);
  });

  it('lets a pod that is not of the mesh start', async () => {
    const { node } = fakeNode({ outcome: 'passed', reason: 'not opted in' });
    assert.equal((await handleCni({ env: env('ADD'), stdin: config() }, node)).code, 0);
  });

  it('never asks the node about excluded namespaces, its own, kube-system or what is no pod', async () => {
    for (const namespace of ['kube-system', 'nodemesh', 'quiet', '']) {
      const { node, added } = fakeNode();
      const answer = await handleCni(
        {
          env: env('ADD', { CNI_ARGS: `K8S_POD_NAMESPACE=${namespace}` }),
          stdin: config({ excludeNamespaces: ['quiet'] }),
        },
        node,
      );
      assert.equal(answer.code, 0);
      assert.deepEqual(added, []);
    }
  });

  it('refuses the network namespace of the node itself', async () => {
    const { node, added } = fakeNode();
    assert.equal(
      await codeOf({ env: env('ADD', { CNI_NETNS: '/proc/self/ns/net' }), stdin: config() }, node),
      4,
    );
    assert.deepEqual(added, []);
  });

  it('refuses what is no namespace', async () => {
    const { node, added } = fakeNode();
    for (const path of ['/etc/passwd', '/', '/dev/null']) {
      assert.equal(await codeOf({ env: env('ADD', { CNI_NETNS: path }), stdin: config() }, node), 4);
    }
    assert.deepEqual(added, []);
  });

  it('asks to try again when the network namespace is gone', async () => {
    assert.equal(await codeOf({ env: env('ADD', { CNI_NETNS: '/run/netns/gone' }), stdin: config() }), 11);
  });

  it('names what is wrong with the environment with code 4', async () => {
    const wrong: Record<string, string>[] = [
      { CNI_COMMAND: '' },
      { CNI_COMMAND: 'add' },
      { CNI_CONTAINERID: '' },
      { CNI_CONTAINERID: '../x' },
      { CNI_CONTAINERID: '.x' },
      { CNI_NETNS: '' },
      { CNI_NETNS: 'relative' },
      { CNI_IFNAME: '' },
      { CNI_IFNAME: '..' },
      { CNI_IFNAME: 'a/b' },
      { CNI_IFNAME: 'sixteen-letters-' },
      { CNI_IFNAME: 'eth 0' },
    ];
    for (const more of wrong) {
      assert.equal(await codeOf({ env: env('ADD', more), stdin: config() }), 4, JSON.stringify(more));
    }
  });

  it('tells undecodable input (6) from a wrong configuration (7)', async () => {
    for (const stdin of [
      '',
      '{',
      '[]',
      'null',
      '7',
      config({ cniVersion: 7 }),
      config({ prevResult: [] }),
      config({ prevResult: { ips: {} } }),
      config({ prevResult: { ips: [7] } }),
      config({ prevResult: { ips: [{ address: 'here' }] } }),
    ]) {
      assert.equal(await codeOf({ env: env('ADD'), stdin }), 6, stdin);
    }
    for (const stdin of [
      config({ prevResult: undefined }),
      config({ prevResult: null }),
      config({ excludeNamespaces: 'x' }),
      config({ socket: 7 }),
      config({ deadlineMs: -1 }),
    ]) {
      assert.equal(await codeOf({ env: env('ADD'), stdin }), 7, stdin);
    }
  });
});

describe('CNI DEL', () => {
  it('succeeds every time, also with an empty CNI_NETNS and without prevResult or arguments', async () => {
    const { node, removed } = fakeNode();
    const stdin = config({ prevResult: undefined });
    for (const more of [{}, { CNI_NETNS: '' }, { CNI_NETNS: '/run/netns/gone' }, { CNI_ARGS: '' }]) {
      assert.deepEqual(await handleCni({ env: env('DEL', more), stdin }, node), { code: 0, stdout: '' });
    }
    assert.deepEqual(removed, ['c-1 u-1', 'c-1 u-1', 'c-1 u-1', 'c-1 ']);
  });

  it('needs a container id', async () => {
    assert.equal(await codeOf({ env: env('DEL', { CNI_CONTAINERID: '' }), stdin: config() }), 4);
  });
});

describe('the other CNI commands', () => {
  it('answers VERSION in the version it was asked in, without a usable configuration too', async () => {
    for (const [stdin, cniVersion] of [
      ['{"cniVersion":"0.4.0"}', '0.4.0'],
      ['{"cniVersion":"9.9.9"}', '9.9.9'],
      ['', '1.1.0'],
      ['garbage', '1.1.0'],
      ['{"cniVersion":"<script>"}', '1.1.0'],
    ] as const) {
      const answer = await handleCni({ env: env('VERSION'), stdin }, fakeNode().node);
      assert.deepEqual(JSON.parse(answer.stdout), {
        cniVersion,
        supportedVersions: ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'],
      });
    }
  });

  it('answers CHECK, GC and STATUS with silence', async () => {
    for (const command of ['CHECK', 'GC', 'STATUS']) {
      const answer = await handleCni({ env: env(command), stdin: config() }, fakeNode().node);
      assert.deepEqual(answer, { code: 0, stdout: '' }, command);
    }
    assert.equal(await codeOf({ env: env('CHECK', { CNI_NETNS: '' }), stdin: config() }), 4);
  });
});
