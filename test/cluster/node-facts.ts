// SPDX-License-Identifier: Apache-2.0
// What a node has of the kinds of things that a mesh leaves there, for comparing before and after.

import assert from 'node:assert/strict';
import { PAUSE_IMAGE } from '../kind/machine-files.ts';
import type { Cluster } from './cluster.ts';

type Node = Cluster['nodes'][number];

/** One line per fact; without devices, mounts and sockets of single pods: those of an earlier test may be on their way out. */
const LOOK = String.raw`
find /etc/cni /opt/cni -type f -exec sha256sum {} +
find /etc/cni /opt/cni /sys/fs/bpf /var/lib/nodemesh /run/nodemesh 2>/dev/null
find /run /var/lib -maxdepth 1
sed 's/^[^ ]* \([^ ]* [^ ]*\) .*/mount \1/' /proc/mounts | grep -v /run/containerd | grep -v /var/lib/kubelet | grep -v /run/netns
sed -n 's/^[^ ]*: .* \(\/[^ ]*\)$/socket \1/p' /proc/net/unix | sort -u | grep -v /run/containerd/s/
ip -oneline link | sed 's/^[0-9]*: \([^ ]*\) .*/link \1/' | grep -v veth
bpftool cgroup tree /sys/fs/cgroup/unified 2>/dev/null | sed 's/^[ 0-9]*/hook /'
bpftool cgroup tree /sys/fs/cgroup 2>/dev/null | sed 's/^[ 0-9]*/hook /'
bpftool --json link | grep -o '"netns_ino":[0-9]*' | while IFS=: read -r _ inode; do
  for netns in /run/netns/*; do
    [ "$(stat -Lc %i "$netns")" != "$inode" ] || echo "link on $netns"
  done
done
true`;

/** Of each there is something on every node; a look that sees none does not work. */
const ALWAYS = ['/etc/cni/', '/run/', 'mount /sys/fs/bpf ', 'socket /run/containerd/', 'link cni0'];

/** A node has its bridge from its first pod on: with this each has it before the comparison begins. */
export async function podOnEachNode(cluster: Cluster, namespace: string): Promise<void> {
  const labels = { app: 'on-each-node' };
  await cluster.apply(
    cluster.nodes.map(({ name }) => ({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: `on-${name}`, namespace, labels },
      spec: {
        nodeName: name,
        terminationGracePeriodSeconds: 0,
        containers: [{ name: 'main', image: PAUSE_IMAGE, imagePullPolicy: 'Never' }],
      },
    })),
  );
  await cluster.podsReady(namespace, `app=${labels.app}`, cluster.nodes.length);
}

export async function nodeFacts(node: Node): Promise<readonly string[]> {
  const lines = (await node.output(['sh', '-c', LOOK])).split('\n').filter(Boolean);
  for (const kind of ALWAYS)
    assert.ok(
      lines.some((line) => line.startsWith(kind)),
      `no ${kind} on ${node.name}`,
    );
  return [...new Set(lines)].sort();
}

export const newIn = (after: readonly string[], before: readonly string[]): string[] => {
  const known = new Set(before);
  return after.filter((fact) => !known.has(fact));
};
