// SPDX-License-Identifier: Apache-2.0
// The CNI project's own runtime library (its program cnitool) on the nodes of a cluster: Containerd before 2 calls
// neither STATUS nor GC. It has a network of its own there, beside kubelet's, whose pods it does not touch.

import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { containerId, writeNewerBridge } from '../../cni/cnitool.ts';
import { goTool } from '../../tools/go-tool.ts';
import type { Cluster, KubernetesObject } from '../cluster.ts';
import { clientPod, loadPrograms } from '../load-pods.ts';
import { untilReason } from '../mesh.ts';
import { sharedMesh } from '../shared-mesh.ts';

const NS = 'cnitool';
/** In each node. */
const FOLDER = '/cnitool';
/** Where containerd has its pods' as well. */
const NETNS = '/var/run/netns/cnitool';

const BRIDGE = {
  type: 'bridge-1.1',
  bridge: 'cnitool',
  ipam: { type: 'host-local', ranges: [[{ subnet: '10.99.0.0/24' }]] },
};

interface NetworkList {
  readonly plugins: readonly (Readonly<Record<string, unknown>> & { readonly type: string })[];
}
interface AgentState {
  readonly pods: readonly { readonly name: string; readonly phase: string; readonly addresses: string[] }[];
}

describe('cnitool on the nodes', { timeout: 400_000 }, () => {
  const shared = sharedMesh();
  let cluster: Cluster;

  const ownPlugin = (node: Cluster['nodes'][number]): object => {
    const text = readFileSync(join(node.root, 'etc/cni/net.d/00-nodemesh.conflist'), 'utf8');
    const { plugins } = JSON.parse(text) as NetworkList;
    return plugins.find(({ type }) => type === 'nodemesh-cni') ?? assert.fail(text);
  };

  before(async () => {
    ({ cluster } = await shared.open());
    const cnitool = await goTool('cnitool');
    await cluster.makeNamespace(NS);
    await cluster.kubectl(['annotate', 'namespace', NS, 'linkerd.io/inject=enabled']);
    const pods = cluster.nodes.flatMap(({ name }, index) =>
      ['stays', 'moved'].map((pod) => clientPod(NS, `${pod}-${index}`, { node: name })),
    );
    await cluster.apply([loadPrograms(NS), ...pods]);
    for (const [index, node] of cluster.nodes.entries()) {
      for (const pod of ['stays', 'moved']) await cluster.podsReady(NS, `app=${pod}-${index}`, 1);
      await untilReason(cluster, NS, [`stays-${index}`, `moved-${index}`], 'Enrolled');
      const folder = join(node.root, FOLDER);
      for (const part of ['net.d', 'bin', 'lib']) mkdirSync(join(folder, part), { recursive: true });
      copyFileSync(cnitool, join(folder, 'bin/cnitool'));
      writeNewerBridge(join(folder, 'bin'), '/opt/cni/bin/bridge');
      const list = { cniVersion: '1.1.0', name: 'cnitool', plugins: [BRIDGE, ownPlugin(node)] };
      writeFileSync(join(folder, 'net.d/cnitool.conflist'), JSON.stringify(list));
    }
  });
  after(async () => {
    for (const node of cluster?.nodes ?? []) {
      await node.run(['sh', '-c', `umount --lazy ${NETNS}; rm -f ${NETNS}; ip link delete cnitool`]);
      rmSync(join(node.root, FOLDER), { recursive: true, force: true });
    }
    await shared.close();
  });

  it('STATUS says that the node is ready; GC takes a sandbox from the mesh that nobody knows any more, and no other one', async () => {
    for (const [index, node] of cluster.nodes.entries()) {
      const script = `mount --bind ${FOLDER}/lib /var/lib; NETCONFPATH=${FOLDER}/net.d CNI_PATH=${FOLDER}/bin:/opt/cni/bin exec ${FOLDER}/bin/cnitool "$@"`;
      const tool = (verb: string, args = ''): Promise<string> =>
        node.output(
          ['env', `CNI_ARGS=${args}`, 'unshare', '-m', 'sh', '-ec', script, 'sh', verb, 'cnitool', NETNS],
          { timeoutMs: 60_000 },
        );
      const addressesOf = async (name: string): Promise<readonly string[] | undefined> => {
        const socket = ['--unix-socket', '/run/nodemesh/agent.sock', 'http://x/state'];
        const { pods } = JSON.parse(await node.output(['curl', '-sS', ...socket])) as AgentState;
        return pods.find((pod) => pod.name === name && pod.phase === 'enrolled')?.addresses;
      };
      /** As runtimes do that know what is still there; cnitool does not say it. */
      const collect = (valid: readonly object[]): Promise<string> =>
        node.output(['env', 'CNI_COMMAND=GC', 'CNI_PATH=/opt/cni/bin', '/opt/cni/bin/nodemesh-cni'], {
          input: JSON.stringify({
            ...ownPlugin(node),
            cniVersion: '1.1.0',
            name: 'cnitool',
            'cni.dev/valid-attachments': valid,
          }),
        });
      await tool('status');

      const [stays, moved] = [`stays-${index}`, `moved-${index}`];
      const [other, first] = [await addressesOf(stays), await addressesOf(moved)];
      assert.deepEqual([other?.length, first?.length], [1, 1]);
      const { metadata } = await cluster.get<KubernetesObject>(['pod', moved, `--namespace=${NS}`]);
      await node.output(['sh', '-ec', `: >${NETNS}; unshare --net=${NETNS} ip link set lo up`]);
      const args = `IgnoreUnknown=1;K8S_POD_NAMESPACE=${NS};K8S_POD_NAME=${moved};K8S_POD_UID=${metadata.uid}`;
      const added = JSON.parse(await tool('add', args)) as { ips: { address: string }[] };
      assert.deepEqual(
        await addressesOf(moved),
        added.ips.map(({ address }) => address.split('/')[0]),
        'it is in the mesh at its new place',
      );
      assert.notDeepEqual(await addressesOf(moved), first);

      // Of its own accord the library deletes what it remembers to have added.
      await tool('gc');
      assert.equal(await addressesOf(moved), undefined);

      await tool('add', args);
      assert.notEqual(await addressesOf(moved), undefined);
      await collect([{ containerID: containerId(NETNS), ifname: 'eth0' }]);
      assert.notEqual(await addressesOf(moved), undefined);
      await collect([]);
      assert.equal(await addressesOf(moved), undefined);
      assert.deepEqual(await addressesOf(stays), other);
      await tool('del', args);
    }
  });
});
