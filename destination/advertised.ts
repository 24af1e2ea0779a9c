// SPDX-License-Identifier: Apache-2.0
// What peers may know of a pod in a mesh. Of a pod under our agents: nothing until its agent reports it enrolled. Of a
// pod with Linkerd's proxy in it: what its labels and the proxy's settings say, as Linkerd's destination does.

import { ADMIN_PORT, MESH_PORT, TAP_PORT } from '#lib/core/mesh-ports.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import { ENROLLED_CONDITION, podCondition } from '#lib/registry/model.ts';
import { ENROLLED_HTTP1_ONLY } from './enrolment-reports.ts';
import type { MeshPod } from './mesh-pod.ts';

export interface Advertised {
  /** The namespace of the control plane that the pod belongs to. */
  readonly controlPlane: string;
  /** Empty: it has none that peers here could verify. */
  readonly identity: string;
  /** Takes mesh traffic with a transport header. */
  readonly inboundPort: number;
  /** The proxy answers these itself. */
  readonly ownPorts: readonly number[];
  readonly http2: boolean;
}

const OWN_PORTS: readonly number[] = [TAP_PORT, ADMIN_PORT];

/** Undefined: peers speak plain text with it. */
export function advertised(meshPod: MeshPod, settings: MeshSettings): Advertised | undefined {
  const { pod, identity, sidecar } = meshPod;
  if (sidecar !== undefined) {
    const { inbound, control, admin } = sidecar.ports;
    return {
      controlPlane: sidecar.controlPlane,
      identity: sidecar.controlPlane === settings.identityNamespace ? identity : '',
      inboundPort: inbound,
      ownPorts: [control, admin],
      http2: true,
    };
  }
  if (!isMeshed(meshPod)) return undefined;
  return {
    controlPlane: settings.identityNamespace,
    identity,
    inboundPort: MESH_PORT,
    ownPorts: OWN_PORTS,
    http2: podCondition(pod, ENROLLED_CONDITION)?.reason !== ENROLLED_HTTP1_ONLY,
  };
}

/** It shall be meshed, and its agent says that it is. */
const isMeshed = ({ pod, eligibility }: MeshPod): boolean =>
  eligibility.enrol && podCondition(pod, ENROLLED_CONDITION)?.status === 'True';
