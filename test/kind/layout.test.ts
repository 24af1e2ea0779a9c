// SPDX-License-Identifier: Apache-2.0
// Names by which a cluster is found again, and its addresses.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { findHierarchies } from './cgroups.ts';
import { clusterLayout, clusterOfCgroup, clusterOfNetns, DEFAULT_NAME } from './layout.ts';

describe("a cluster's layout", () => {
  test('is found again by its namespaces and control groups, whatever its name', () => {
    for (const name of [DEFAULT_NAME, 'a', 'node1', 'x-control', 'x-node1-control']) {
      const layout = clusterLayout(name, 3);
      for (const netns of [
        layout.fabricNetns,
        layout.control.netns,
        ...layout.nodes.map((node) => node.netns),
      ])
        assert.equal(clusterOfNetns(netns), name);
      assert.equal(clusterOfCgroup(layout.cgroup), name);
    }
    for (const foreign of ['nm-main-node1', 'nodemesh-kc-main', 'nodemesh-kc-main-pod', 'cni-1234'])
      assert.equal(clusterOfNetns(foreign), undefined);
  });

  test('gives each node an address and a pod network of its own', () => {
    const { control, nodes } = clusterLayout(DEFAULT_NAME, 16);
    assert.equal(new Set([control.address, ...nodes.map((node) => node.address)]).size, 17);
    assert.equal(new Set(nodes.map((node) => node.podNetwork)).size, 16);
    assert.deepEqual([nodes[0]?.zone, nodes[1]?.zone, nodes[3]?.zone], ['zone-a', 'zone-b', 'zone-a']);
  });

  test('refuses names and numbers that cannot be', () => {
    for (const name of ['', 'A', 'a_b', '-a', '../x', 'a'.repeat(25)])
      assert.throws(() => clusterLayout(name, 2), /cannot be the name of a cluster/);
    for (const nodes of [0, 17, 1.5, Number.NaN])
      assert.throws(() => clusterLayout(DEFAULT_NAME, nodes), /a cluster cannot have/);
  });

  test("puts its control groups below the caller's own in every hierarchy", () => {
    const mounts = [
      'tmpfs /sys/fs/cgroup tmpfs rw 0 0',
      'cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0',
      'cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0',
      'cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0',
      'cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0',
    ];
    const own = ['9:name=systemd:/', '4:memory:/jobs/1', '2:cpu,cpuacct:/', '1:pids:/', '0::/u'];
    assert.deepEqual(findHierarchies(mounts.join('\n'), own.join('\n')), [
      { mount: '/sys/fs/cgroup/cpu,cpuacct', own: '/sys/fs/cgroup/cpu,cpuacct/' },
      { mount: '/sys/fs/cgroup/memory', own: '/sys/fs/cgroup/memory/jobs/1' },
      { mount: '/sys/fs/cgroup/systemd', own: '/sys/fs/cgroup/systemd/' },
      { mount: '/sys/fs/cgroup/unified', own: '/sys/fs/cgroup/unified/u' },
    ]);
  });
});
