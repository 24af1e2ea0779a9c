// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { findNamespaces, podOfCgroups, type ProcessView, processView } from './find-namespace.ts';

const A = '0a5f3c1e-1111-4222-8333-444455556666';
const B = '7b6e5d4c-9999-4888-8777-666655554444';
const wanted = new Map([
  [A, 1],
  [B, 1],
]);

describe('a pod by the cgroup of its process', () => {
  const id = 'f'.repeat(64);
  const forms: Readonly<Record<string, string>> = {
    'cgroupfs, burstable': `0::/kubepods/burstable/pod${A}/${id}`,
    'cgroupfs, guaranteed': `0::/kubepods/pod${A}/${id}`,
    'systemd, containerd': `0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${A.replaceAll('-', '_')}.slice/cri-containerd-${id}.scope`,
    'systemd, cri-o': `0::/kubepods.slice/kubepods-pod${A.replaceAll('-', '_')}.slice/crio-${id}.scope/container`,
    'kind, below the kubelet': `0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod${A.replaceAll('-', '_')}.slice/cri-containerd-${id}.scope`,
    'seen from a cgroup namespace': `0::/../../pod${A}/${id}`,
    'cgroup v1': `12:pids:/kubepods/burstable/pod${A}/${id}\n1:name=systemd:/`,
    'a local mesh': `0::/nodemesh-local/x/node1/pods/${A}/main`,
  };
  for (const [name, text] of Object.entries(forms)) {
    it(name, () => assert.equal(podOfCgroups(`${text}\n`, wanted), A));
  }
  it('no other pod, and no service of the node', () => {
    assert.equal(podOfCgroups(`0::/kubepods/pod${A.replace('0a', '0b')}/${id}`, wanted), undefined);
    assert.equal(podOfCgroups('0::/system.slice/sshd.service', wanted), undefined);
    assert.equal(podOfCgroups(`0::/kubepods/x${A}/${id}`, wanted), undefined);
    assert.equal(podOfCgroups('', wanted), undefined);
  });
});

interface FakeProcess {
  readonly uid: string;
  readonly started: number;
  readonly inode: bigint;
}

const HOST = 1n;
const viewOf = (
  processes: Readonly<Record<string, FakeProcess>>,
  addresses: Readonly<Record<string, readonly string[]>>,
  gone: readonly string[] = [],
): ProcessView => ({
  processes: () => Object.keys(processes),
  cgroups: (process) => (gone.includes(process) ? undefined : `0::/kubepods/pod${processes[process]?.uid}/x`),
  startedAt: (process) => processes[process]?.started ?? 0,
  namespaceOf: (process) => {
    const inode = processes[process]?.inode;
    return inode === undefined ? undefined : { path: `/proc/${process}/ns/net`, inode };
  },
  hosts: () => new Set([HOST]),
  addresses: ({ inode }) => addresses[String(inode)] ?? [],
});
const pods = [
  { uid: A, addresses: ['10.0.0.1', 'fd00::1'] },
  { uid: B, addresses: ['10.0.0.2'] },
];

describe('the namespace of a pod', () => {
  it('is the one of its oldest process that has its address', async () => {
    const view = viewOf(
      {
        30: { uid: A, started: 30, inode: 7n },
        10: { uid: A, started: 10, inode: 5n },
        40: { uid: B, started: 40, inode: 6n },
      },
      { 5: ['127.0.0.1', '10.0.0.1'], 6: ['10.0.0.2'], 7: ['10.0.0.1'] },
    );
    const found = await findNamespaces(pods, view);
    assert.equal(found.get(A)?.path, '/proc/10/ns/net');
    assert.equal(found.get(B)?.path, '/proc/40/ns/net');
  });

  it("is never the node's, nor a foreign one that a process of the pod visits", async () => {
    const view = viewOf(
      {
        10: { uid: A, started: 10, inode: HOST },
        11: { uid: A, started: 11, inode: 6n },
        12: { uid: A, started: 12, inode: 5n },
      },
      { 1: ['10.0.0.1'], 6: ['10.0.0.2'], 5: ['FD00:0::1'] },
    );
    assert.equal((await findNamespaces(pods, view)).get(A)?.inode, 5n);
  });

  it('is unknown while the pod has no process, or its process ends meanwhile', async () => {
    const view = viewOf({ 10: { uid: A, started: 10, inode: 5n } }, { 5: ['10.0.0.1'] }, ['10']);
    assert.equal((await findNamespaces(pods, view)).size, 0);
  });

  it('on this machine: every process can be looked at, and none is a pod of ours', async () => {
    assert.equal((await findNamespaces(pods, processView('/proc'))).size, 0);
  });
});
