// SPDX-License-Identifier: Apache-2.0
// Tells users through Events on their pods what of their annotations cannot be used, and why a pod that asked for
// the mesh is not in it.

import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import type { MeshPod } from './mesh-pod.ts';

export interface PodEvents {
  /** The pod is as given now. */
  tell(meshPod: MeshPod): void;
  forget(uid: string): void;
}

export function createPodEvents(registry: Registry, log: Log): PodEvents {
  /** What was told last, by uid. */
  const told = new Map<string, string>();
  return {
    tell(meshPod) {
      const { pod } = meshPod;
      const { uid, namespace, name } = pod.metadata;
      const events = eventsOf(meshPod);
      const text = JSON.stringify(events);
      if (text === (told.get(uid) ?? '[]')) return;
      told.set(uid, text);
      registry
        .reportStatus({ cluster: pod.cluster, namespace, name, uid }, { events })
        .catch((error: unknown) =>
          log.warn({ pod: `${namespace}/${name}`, error: errorMessage(error) }, 'event was not written'),
        );
    },
    forget: (uid) => void told.delete(uid),
  };
}

function eventsOf({ eligibility, warnings }: MeshPod): PodEvent[] {
  const asked = eligibility.enrol || eligibility.asked;
  if (!asked) return [];
  return [
    ...(eligibility.enrol
      ? []
      : [
          {
            type: 'Warning' as const,
            reason: 'MeshNotPossible',
            message: `Not meshed: ${eligibility.reason}`,
          },
        ]),
    ...warnings.map((message) => ({ type: 'Warning' as const, reason: 'MeshConfigInvalid', message })),
  ];
}
