// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { handleCni } from './handle.ts';
import type { CniAddOutcome, CniCheckOutcome, CniNode, CniPod } from './node.ts';

const args = 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u-1';

function fakeNode(outcome: CniAddOutcome | Error = { outcome: 'enrolled' }) {
  const added: CniPod[] = [];
  const removed: string[] = [];
  const kept: unknown[] = [];
  const health: { now: CniCheckOutcome } = { now: { outcome: 'sound' } };
  const node: CniNode = {
    addPod: (pod) => {
      added.push(pod);
      return outcome instanceof Error ? Promise.reject(outcome) : Promise.resolve(outcome);
    },
    checkPod: () => Promise.resolve(health.now),
    removePod: (containerId, uid) => {
      removed.push(`${containerId} ${uid}`);
      return Promise.resolve();
    },
    keepOnly: (network, attachments) => {
      kept.push([network, attachments]);
      return Promise.resolve();
    },
  };
  return { added, removed, kept, health, node };
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
        network: 'k8s',
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

  it('changes nothing in the result, not even a number that no double holds, nor its version', async () => {
    const previous = `{"cniVersion":"0.4.0","ips":[],"x":[12345678901234567890,1.0,{"__proto__":1}],"a":null}`;
    const stdin = `{"cniVersion":"1.0.0","name":"k8s","prevResult":${previous}}`;
    const answer = await handleCni({ env: env('ADD'), stdin }, fakeNode().node);
    assert.equal(answer.stdout, `${previous}\n`);
  });

  it('refuses a result of a version that it does not know', async () => {
    const prevResult = { cniVersion: '0.2.0', ip4: { ip: '10.0.0.2/8' } };
    assert.equal(await codeOf({ env: env('ADD'), stdin: config({ prevResult }) }), 7);
  });

  it('refuses fields that ask for addresses, naming key and value', async () => {
    for (const [more, text] of [
      [{ ipam: { type: 'host-local' } }, /ipam.*host-local/],
      [{ ipMasq: true }, /ipMasq.*true/],
    ] as const) {
      const request = { env: env('ADD'), stdin: config(more) };
      assert.equal(await codeOf(request), 2);
      assert.match((await handleCni(request, fakeNode().node)).stdout, text);
    }
    const answer = await handleCni(
      { env: env('ADD'), stdin: config({ ipMasq: false, args: { x: 1 } }) },
      fakeNode().node,
    );
    assert.equal(answer.code, 0);
  });

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

  it('succeeds though the configuration has become unusable', async () => {
    const { node, removed } = fakeNode();
    for (const more of [{ cniVersion: '9.0.0' }, { excludeNamespaces: 7 }, { prevResult: 7 }]) {
      assert.equal((await handleCni({ env: env('DEL'), stdin: config(more) }, node)).code, 0);
    }
    assert.equal(removed.length, 3);
  });
});

describe('CNI CHECK', () => {
  it('is content with a pod that is as it shall be', async () => {
    assert.deepEqual(await handleCni({ env: env('CHECK'), stdin: config() }, fakeNode().node), {
      code: 0,
      stdout: '',
    });
  });

  it('says what is wrong with a pod', async () => {
    const { node, health } = fakeNode();
    health.now = { outcome: 'broken', reason: 'not redirected' };
    const request = { env: env('CHECK'), stdin: config() };
    assert.equal(await codeOf(request, node), 11);
    assert.match((await handleCni(request, node)).stdout, /not redirected/);
    const elsewhere = env('CHECK', { CNI_ARGS: 'K8S_POD_NAMESPACE=kube-system' });
    assert.equal((await handleCni({ env: elsewhere, stdin: config() }, node)).code, 0);
  });

  it('needs what ADD needs', async () => {
    for (const name of ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME']) {
      const request = { env: env('CHECK', { [name]: '' }), stdin: config() };
      assert.equal(await codeOf(request), 4);
      assert.match((await handleCni(request, fakeNode().node)).stdout, new RegExp(name));
    }
    assert.equal(await codeOf({ env: env('CHECK'), stdin: config({ prevResult: undefined }) }), 7);
  });
});

describe('CNI GC', () => {
  const gc = (more: object) => ({
    env: env('GC'),
    stdin: config({ cniVersion: '1.1.0', prevResult: undefined, ...more }),
  });
  const valid = [{ containerID: 'c-1', ifname: 'eth0' }];

  it('keeps the attachments that the runtime names, of this network', async () => {
    const { node, kept } = fakeNode();
    for (const more of [
      { 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': valid },
      { 'cni.dev/attachments': valid },
      { 'cni.dev/valid-attachments': [] },
      { 'cni.dev/valid-attachments': null },
    ]) {
      assert.deepEqual(await handleCni(gc(more), node), { code: 0, stdout: '' });
    }
    const one = [{ containerId: 'c-1', ifname: 'eth0' }];
    assert.deepEqual(kept, [
      ['k8s', one],
      ['k8s', one],
      ['k8s', []],
      ['k8s', []],
    ]);
  });

  it('takes no list, or one that it cannot read, never for an empty one', async () => {
    const { node, kept } = fakeNode();
    assert.equal((await handleCni(gc({}), node)).code, 0);
    for (const list of [7, 'c-1', [{ containerID: 'c-1' }], [null]]) {
      assert.equal(await codeOf(gc({ 'cni.dev/valid-attachments': list }), node), 6);
    }
    assert.deepEqual(kept, []);
  });

  it('reports what could not be removed', async () => {
    const { node } = fakeNode();
    const failing = { ...node, keepOnly: () => Promise.reject(new Error('busy')) };
    assert.equal(await codeOf(gc({ 'cni.dev/valid-attachments': [] }), failing), 11);
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

  it('answers STATUS with silence', async () => {
    const stdin = config({ cniVersion: '1.1.0', prevResult: undefined });
    assert.deepEqual(await handleCni({ env: env('STATUS'), stdin }, fakeNode().node), {
      code: 0,
      stdout: '',
    });
  });

  it('refuses commands that the version does not have with code 1', async () => {
    for (const [command, version] of [
      ['CHECK', '0.3.1'],
      ['GC', '1.0.0'],
      ['STATUS', '1.0.0'],
    ] as const) {
      assert.equal(await codeOf({ env: env(command), stdin: config({ cniVersion: version }) }), 1);
    }
  });
});
