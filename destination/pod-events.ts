// SPDX-License-Identifier: Apache-2.0
// Tells users through Events on their pods what of their annotations cannot be used, and why a pod that asked for
// the mesh is not in it. Of several replicas the one that leads tells it.

import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { Leadership } from '#lib/registry/leadership.ts';
import { podTerminal } from '#lib/registry/model.ts';
import type { PodEvent, PodRef, Registry } from '#lib/registry/registry.ts';
import type { MeshPod } from './mesh-pod.ts';

export interface PodEvents {
  /** The pod is as given now. */
  tell(meshPod: MeshPod): void;
  forget(uid: string): void;
}

export function createPodEvents(options: {
  readonly registry: Registry;
  readonly leadership: Leadership;
  readonly log: Log;
}): PodEvents {
  const { registry, leadership, log } = options;
  /** What there is to tell, by uid. */
  const known = new Map<
    string,
    { readonly pod: PodRef; readonly events: readonly PodEvent[]; readonly text: string }
  >();

  const write = (pod: PodRef, events: readonly PodEvent[]): void => {
    registry
      .reportStatus(pod, { events })
      .catch((error: unknown) =>
        log.warn(
          { pod: `${pod.namespace}/${pod.name}`, error: errorMessage(error) },
          'event was not written',
        ),
      );
  };
  // The last leader may have ended before it told everything; what it did tell is not written a second time.
  leadership.onChange((leading) => {
    if (leading) for (const { pod, events } of known.values()) write(pod, events);
  });
  return {
    tell(meshPod) {
      const { pod } = meshPod;
      const { uid, namespace, name } = pod.metadata;
      // A Job that has done its work lacks nothing.
      if (podTerminal(pod)) {
        known.delete(uid);
        return;
      }
      const events = eventsOf(meshPod);
      const text = JSON.stringify(events);
      if (text === (known.get(uid)?.text ?? '[]')) return;
      const ref = { cluster: pod.cluster, namespace, name, uid };
      if (events.length === 0) known.delete(uid);
      else known.set(uid, { pod: ref, events, text });
      if (leadership.leading && events.length > 0) write(ref, events);
    },
    forget: (uid) => void known.delete(uid),
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
