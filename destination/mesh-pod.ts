// SPDX-License-Identifier: Apache-2.0
// A pod with everything that the mesh derives from it, its namespace, owner and node.

import { type Eligibility, eligibility } from '#lib/registry/eligibility.ts';
import { type InboundServers, inboundServers } from '#lib/registry/inbound-policy.ts';
import { identityOf, type MeshSettings } from '#lib/registry/mesh-settings.ts';
import type { Namespace, Pod } from '#lib/registry/model.ts';
import { type Owner, ownerOf } from '#lib/registry/owner.ts';
import { type Sidecar, sidecarOf } from '#lib/registry/sidecar.ts';
import { containerPortNames, effectiveConfig, type WorkloadConfig } from '#lib/registry/workload-config.ts';

export interface MeshPod {
  readonly pod: Pod;
  readonly eligibility: Eligibility;
  readonly config: WorkloadConfig;
  readonly servers: InboundServers;
  readonly identity: string;
  readonly owner: Owner;
  /** It has Linkerd's proxy in it, and no agent of ours serves it. */
  readonly sidecar: Sidecar | undefined;
  readonly zone: string;
  readonly portNames: ReadonlyMap<string, number>;
  /** What the user wrote and cannot be used, for Events. */
  readonly warnings: readonly string[];
}

export interface PodSurroundings {
  readonly settings: MeshSettings;
  readonly namespace: Namespace | undefined;
  readonly findOwner: Parameters<typeof ownerOf>[1];
  readonly zone: string;
}

export function createMeshPod(pod: Pod, around: PodSurroundings): MeshPod {
  const { settings, namespace } = around;
  const { config, warnings } = effectiveConfig(pod, namespace, settings);
  const servers = inboundServers(config, settings);
  return {
    pod,
    config,
    servers,
    eligibility: eligibility(pod, namespace, settings),
    identity: identityOf(pod.spec.serviceAccountName, pod.metadata.namespace, settings),
    sidecar: sidecarOf(pod),
    owner: ownerOf(pod, around.findOwner),
    zone: around.zone,
    portNames: containerPortNames(pod),
    warnings: [...warnings, ...servers.warnings],
  };
}
