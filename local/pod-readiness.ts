// SPDX-License-Identifier: Apache-2.0
// Says in a few words why a pod is not ready.

import type { PodObject } from './objects.ts';

/** Why a pod is not ready, as short as possible. */
export function explainPod(pod: PodObject): string {
  if (pod.status.message !== undefined) return pod.status.message;
  for (const status of [
    ...(pod.status.initContainerStatuses ?? []),
    ...(pod.status.containerStatuses ?? []),
  ]) {
    if ('waiting' in status.state) return status.state.waiting.message ?? status.state.waiting.reason;
    if (!status.ready && 'running' in status.state) return `container ${status.name} is not ready`;
  }
  return pod.status.phase;
}
