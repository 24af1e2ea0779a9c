// SPDX-License-Identifier: Apache-2.0
// A node behind the real CNI socket that notes what it is asked. What becomes of pods is not here.

import type { Attachment } from '../../cni-plugin/logic/call.ts';
import type { CniAddOutcome, CniCheckOutcome, CniNode, CniPod } from '../../cni-plugin/logic/node.ts';
import { encodeEnrolledList } from '../../cni-plugin/logic/enrolled-list.ts';

export interface FakeNode {
  readonly node: CniNode;
  readonly added: CniPod[];
  readonly checked: CniPod[];
  /** `containerId uid`. */
  readonly removed: string[];
  readonly kept: { readonly network: string; readonly attachments: readonly Attachment[] }[];
  outcome: CniAddOutcome;
  health: CniCheckOutcome;
}

export function fakeNode(change: Partial<CniNode> = {}): FakeNode {
  const fake: FakeNode = {
    added: [],
    checked: [],
    removed: [],
    kept: [],
    outcome: { outcome: 'enrolled' },
    health: { outcome: 'sound' },
    node: {
      addPod: (pod) => {
        fake.added.push(pod);
        return Promise.resolve(fake.outcome);
      },
      checkPod: (pod) => {
        fake.checked.push(pod);
        return Promise.resolve(fake.health);
      },
      removePod: (containerId, uid) => {
        fake.removed.push(`${containerId} ${uid}`);
        return Promise.resolve();
      },
      keepOnly: (network, attachments) => {
        fake.kept.push({ network, attachments });
        return Promise.resolve();
      },
      ...change,
    },
  };
  return fake;
}

/** The text of the list on disk, from `ns shop` and `pod u-1`. */
export const listOf = (...entries: readonly string[]): string => {
  const named = (kind: string): string[] =>
    entries.filter((entry) => entry.startsWith(kind)).map((entry) => entry.slice(kind.length));
  return encodeEnrolledList({ namespaces: named('ns '), pods: named('pod ') });
};
