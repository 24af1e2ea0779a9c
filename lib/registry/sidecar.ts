// SPDX-License-Identifier: Apache-2.0
// Pods that bring Linkerd's proxy as a container. They are not ours to mesh, but peers: what they advertise follows from
// the label that Linkerd's injector writes and from the proxy's own settings.

import { parseSocketAddress } from '#lib/core/addresses.ts';
import { ADMIN_PORT, MESH_PORT, TAP_PORT } from '#lib/core/mesh-ports.ts';
import type { Pod, ProxyPorts } from './model.ts';
import { containersOf } from './workload-config.ts';

export const CONTROL_PLANE_LABEL = 'linkerd.io/control-plane-ns';
export const PROXY_CONTAINER = 'linkerd-proxy';

/** Where a container that is Linkerd's proxy listens; `env` is what stands in a manifest. */
export function proxyPortsOf(env: unknown): ProxyPorts {
  const values = new Map<unknown, unknown>();
  for (const entry of Array.isArray(env) ? (env as unknown[]) : []) {
    if (typeof entry === 'object' && entry !== null && 'name' in entry && 'value' in entry) {
      values.set(entry.name, entry.value);
    }
  }
  const port = (name: string, fallback: number): number => {
    const text = values.get(`LINKERD2_PROXY_${name}_LISTEN_ADDR`);
    return (typeof text === 'string' ? parseSocketAddress(text)?.port : undefined) ?? fallback;
  };
  return {
    inbound: port('INBOUND', MESH_PORT),
    control: port('CONTROL', TAP_PORT),
    admin: port('ADMIN', ADMIN_PORT),
  };
}

export interface Sidecar {
  /** The namespace of the control plane that the proxy belongs to. */
  readonly controlPlane: string;
  readonly ports: ProxyPorts;
}

export function sidecarOf(pod: Pod): Sidecar | undefined {
  const controlPlane = pod.metadata.labels[CONTROL_PLANE_LABEL] ?? '';
  const ports = containersOf(pod).find(({ name }) => name === PROXY_CONTAINER)?.proxyPorts;
  return controlPlane === '' || ports === undefined ? undefined : { controlPlane, ports };
}
