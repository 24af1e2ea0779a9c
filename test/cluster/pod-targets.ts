// SPDX-License-Identifier: Apache-2.0
// What Prometheus' discovery of pods would find, as a file of targets: Debian's build has no discovery in Kubernetes.
// The labels are those that Prometheus documents for `role: pod`, as far as the shipped configuration reads them.

import { renameSync, writeFileSync } from 'node:fs';
import type { Cluster, KubernetesObject } from './cluster.ts';

interface Pod extends KubernetesObject {
  readonly spec: {
    readonly nodeName?: string;
    readonly containers: readonly {
      readonly name: string;
      readonly ports?: readonly { readonly name?: string; readonly containerPort: number }[];
    }[];
  };
  readonly status: { readonly podIP?: string; readonly hostIP?: string };
}

const META = '__meta_kubernetes_';

/** One for each container and declared port, or for the container if it declares none. */
const targetsOf = ({ metadata, spec, status }: Pod): object[] =>
  status.podIP === undefined
    ? []
    : spec.containers.flatMap(({ name, ports = [] }) =>
        (ports.length === 0 ? [undefined] : ports).map((port) => ({
          targets: [port === undefined ? status.podIP : `${status.podIP}:${port.containerPort}`],
          labels: {
            [`${META}namespace`]: metadata.namespace ?? '',
            [`${META}pod_name`]: metadata.name,
            [`${META}pod_node_name`]: spec.nodeName ?? '',
            [`${META}pod_host_ip`]: status.hostIP ?? '',
            [`${META}pod_container_name`]: name,
            [`${META}pod_container_port_name`]: port?.name ?? '',
            ...Object.fromEntries(
              Object.entries(metadata.labels ?? {}).map(([key, value]) => [
                `${META}pod_label_${key.replaceAll(/\W/g, '_')}`,
                value,
              ]),
            ),
          },
        })),
      );

export async function writePodTargets(cluster: Cluster, namespace: string, file: string): Promise<void> {
  const pods = await cluster.list<Pod>(['pods', `--namespace=${namespace}`]);
  writeFileSync(`${file}.new`, JSON.stringify(pods.flatMap(targetsOf)));
  renameSync(`${file}.new`, file);
}
