// SPDX-License-Identifier: Apache-2.0
// The scale benchmark's cluster on a real API server: nodes without a kubelet, whose leases are renewed here, so that
// their pods are not evicted.

import { systemClock } from '#lib/core/clock.ts';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import { createApiClient } from '#lib/registry-kubernetes/api-client.ts';
import { ApiFailure } from '#lib/registry-kubernetes/api-failure.ts';
import type { ClusterLayout } from '../../test/kind/layout.ts';
import { clusterAccess } from './cluster-access.ts';
import {
  agentAccount,
  agentManifest,
  agentName,
  conditions,
  type Manifest,
  MESH_NAMESPACE,
  namespaceManifests,
  nodeManifest,
  nodeName,
  podManifest,
  podsOf,
  type Population,
  serviceManifest,
} from './population.ts';
import { inParallel, type Stage } from './stage.ts';

const AT_ONCE = 32;
const LEASES_EVERY_MS = 15_000;
const LEASES = '/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases';
const MERGE = 'application/merge-patch+json';
const STRATEGIC = 'application/strategic-merge-patch+json';

const range = (length: number): number[] => Array.from({ length }, (_, index) => index);

export function createKubernetesStage(layout: ClusterLayout): Stage {
  const { kubeconfig, apiSocket: socket } = layout;
  const api = createApiClient({
    access: clusterAccess(kubeconfig, socket),
    clock: systemClock,
    userAgent: 'nodemesh-bench',
  });
  let agents = 0;
  let renewing = Promise.resolve();
  let timer: NodeJS.Timeout | undefined;

  const collectionOf = ({ kind, metadata }: Manifest): string => {
    const plural = `${kind.toLowerCase()}s`;
    return metadata.namespace === undefined
      ? `/api/v1/${plural}`
      : `/api/v1/namespaces/${metadata.namespace}/${plural}`;
  };
  /** Made before, by an earlier run: its status is written again. */
  const create = async (manifest: Manifest): Promise<void> => {
    const { status, ...body } = manifest;
    const path = collectionOf(manifest);
    for (let attempt = 0; ; attempt++) {
      try {
        await api.call({ method: 'POST', path, body });
        break;
      } catch (error) {
        if (error instanceof ApiFailure && error.reason === 'AlreadyExists') break;
        // The namespace's default account is being made.
        if (!(error instanceof ApiFailure) || error.status !== 403 || attempt > 100) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
    if (status !== undefined) {
      const statusPath = `${path}/${manifest.metadata.name}/status`;
      await api.call({ method: 'PATCH', path: statusPath, contentType: STRATEGIC, body: { status } });
    }
  };
  const now = (): string => new Date().toISOString().replace('Z', '000Z');
  const renewLeases = async (): Promise<void> => {
    await inParallel(range(agents), 4, async (index) => {
      const body = { spec: { renewTime: now() } };
      await api.call({ method: 'PATCH', path: `${LEASES}/${nodeName(index)}`, contentType: MERGE, body });
    });
  };

  async function makeNodes(): Promise<void> {
    await inParallel(range(agents), AT_ONCE, async (index) => {
      const time = new Date().toISOString().slice(0, 19);
      await create({
        ...nodeManifest(index),
        status: {
          conditions: conditions(true).map((one) => ({
            ...one,
            reason: 'KubeletReady',
            lastHeartbeatTime: `${time}Z`,
          })),
        },
      });
      const body = {
        metadata: { name: nodeName(index) },
        spec: { holderIdentity: nodeName(index), leaseDurationSeconds: 40, renewTime: now() },
      };
      try {
        await api.call({ method: 'POST', path: LEASES, body });
      } catch (error) {
        if (!(error instanceof ApiFailure) || error.reason !== 'AlreadyExists') throw error;
      }
    });
    timer = setInterval(() => {
      renewing = renewing
        .then(renewLeases)
        .catch((error: unknown) => console.error(`leases: ${String(error)}`));
    }, LEASES_EVERY_MS);
  }

  return {
    source: { kind: 'kubernetes', kubeconfig, socket },
    async make(population: Population) {
      agents = population.agents;
      for (const namespace of namespaceManifests()) await create(namespace);
      await create(agentAccount);
      await makeNodes();
      await inParallel(range(agents), AT_ONCE, (index) => create(agentManifest(index)));
      await inParallel(podsOf(population), AT_ONCE, (pod) => create(podManifest(pod)));
      // After the pods: each gets its EndpointSlice in one piece.
      await inParallel(range(population.services), AT_ONCE, (index) => create(serviceManifest(index)));
    },
    async agentToken(index) {
      const pods = `/api/v1/namespaces/${MESH_NAMESPACE}/pods/${agentName(index)}`;
      const { metadata } = (await api.call({ path: pods })) as { metadata: { uid: string } };
      const { status } = (await api.call({
        method: 'POST',
        path: `/api/v1/namespaces/${MESH_NAMESPACE}/serviceaccounts/nodemesh-agent/token`,
        body: {
          spec: {
            audiences: [tokenAudiences.nodeStream],
            boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: agentName(index), uid: metadata.uid },
          },
        },
      })) as { status: { token: string } };
      return status.token;
    },
    async setReady(pod, ready) {
      const path = `/api/v1/namespaces/${pod.namespace}/pods/${pod.name}/status`;
      const body = { status: { conditions: conditions(ready) } };
      await api.call({ method: 'PATCH', path, contentType: STRATEGIC, body });
    },
    async close() {
      clearInterval(timer);
      await renewing;
      api.close();
    },
  };
}
