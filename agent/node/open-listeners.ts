// SPDX-License-Identifier: Apache-2.0
// A pod's listeners for every slot: those of an earlier agent, new ones where it left none.

import type { ListenerHandle } from '../proxy/model.ts';
import type { ListenerKeeper } from './kept-listeners.ts';
import type { PodNamespace } from './pod-namespace.ts';

/** `opened` has them also when one of them cannot be made. */
export function openListeners(
  keeper: ListenerKeeper,
  uid: string,
  namespace: PodNamespace,
  adopted: readonly ListenerHandle[],
  slots: number,
  opened: ListenerHandle[],
): void {
  for (const direction of ['inbound', 'outbound'] as const) {
    for (let slot = 0; slot < slots; slot++) {
      for (const family of namespace.families) {
        const kept = adopted.find(
          (one) => one.direction === direction && one.slot === slot && one.family === family,
        );
        const listener = kept ?? { direction, family, slot, fd: namespace.openListener(family) };
        opened.push(listener);
        keeper.keep(uid, listener);
      }
    }
  }
  for (const one of adopted) if (!opened.includes(one)) namespace.closeDescriptor(one.fd);
}
