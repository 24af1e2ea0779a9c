// SPDX-License-Identifier: Apache-2.0
// Runs programs in containers of pods without API server, kubelet and containerd, for when one of them is away: the
// processes' namespaces and control group are entered on the node.

import assert from 'node:assert/strict';
import type { LoadGround } from '../faults/load.ts';
import type { Cluster, KubernetesObject } from './cluster.ts';
import { groundOf } from './load-pods.ts';

export interface PodName {
  readonly ns: string;
  readonly pod: string;
}

interface Pod extends KubernetesObject {
  readonly spec: { readonly nodeName: string };
  readonly status: { readonly containerStatuses?: readonly { readonly containerID?: string }[] };
}

/** PID COMMAND…, found as in the container: the eBPF programs are on the control group of version 2, and nsenter does not move into it. */
const ENTER = String.raw`
pid=$1; shift
mount=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup2 .*/\1/p' /proc/mounts | head -n 1)
group=$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
echo 0 >"$mount$group/cgroup.procs" || exit 70
path=$(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^PATH=//p')
PATH=$path exec /usr/bin/nsenter --target "$pid" --all -- "$@"`;

const keyOf = ({ ns, pod }: PodName): string => `${ns}/${pod}`;

/** For startLoad, in the first containers of these pods, which run, as they are now. */
export async function groundWithin(cluster: Cluster, pods: readonly PodName[]): Promise<LoadGround> {
  const places = new Map(
    await Promise.all(
      pods.map(async (name) => {
        const { spec, status } = await cluster.get<Pod>(['pod', name.pod, `--namespace=${name.ns}`]);
        const id = status.containerStatuses?.[0]?.containerID?.replace('containerd://', '') ?? '';
        const node = cluster.nodes.find((one) => one.name === spec.nodeName);
        assert.ok(node !== undefined && id !== '', `the container of ${keyOf(name)} runs`);
        const tasks = await node.output(['ctr', '--namespace=k8s.io', 'tasks', 'ls']);
        const pid = new RegExp(String.raw`^${id}\s+(\d+)`, 'm').exec(tasks)?.[1];
        assert.ok(pid !== undefined, `the process of ${keyOf(name)}`);
        return [keyOf(name), { node, pid }] as const;
      }),
    ),
  );
  return {
    ...groundOf(cluster),
    exec: (pod, argv, { ns = 'default', ...options } = {}) => {
      const place = places.get(keyOf({ ns, pod })) ?? assert.fail(`nobody looked for ${ns}/${pod}`);
      return place.node.run(['sh', '-c', ENTER, 'sh', place.pid, ...argv], options);
    },
  };
}
