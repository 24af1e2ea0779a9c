// SPDX-License-Identifier: Apache-2.0
// Which accounts have pods on which node, kept from the registry's pods. What makes a pod part of the mesh is a
// parameter; it is asked when a decision is made, because namespaces change too.

import { keyText, type Pod, podTerminal } from '#lib/registry/model.ts';
import type { Registry } from '#lib/registry/registry.ts';
import type { Account } from '#lib/x509/names.ts';

export type AccountOnNode =
  | { readonly kind: 'meshed' }
  | { readonly kind: 'not-meshed'; readonly reason: string }
  /** No pod of the account is known on the node: it may be new. */
  | { readonly kind: 'unseen' };

export interface KnownPod {
  readonly uid: string;
  readonly nodeName: string;
  readonly serviceAccount: string;
  readonly alive: boolean;
}

export interface Accounts {
  /** False until all that exists has been read once. */
  readonly synced: boolean;
  pod(namespace: string, name: string): KnownPod | undefined;
  onNode(nodeName: string, account: Account): AccountOnNode;
  close(): void;
}

export interface AccountsOptions {
  readonly registry: Registry;
  readonly cluster: string;
  /** Why a pod is not to be meshed (not opted in, host network, …); undefined if it is. */
  readonly whyNotMeshed: (pod: Pod) => string | undefined;
}

export function createAccounts(options: AccountsOptions): Accounts {
  const { registry, cluster } = options;
  const podsByNodeAndAccount = new Map<string, Map<string, Pod>>();
  const groupOf = (pod: Pod): string =>
    groupKey(pod.spec.nodeName, {
      namespace: pod.metadata.namespace,
      name: pod.spec.serviceAccountName,
    });
  const add = (pod: Pod): void => {
    if (pod.cluster !== cluster) return;
    const group = podsByNodeAndAccount.get(groupOf(pod)) ?? new Map<string, Pod>();
    group.set(nameKey(pod), pod);
    podsByNodeAndAccount.set(groupOf(pod), group);
  };
  const remove = (pod: Pod): void => {
    const group = podsByNodeAndAccount.get(groupOf(pod));
    group?.delete(nameKey(pod));
    if (group?.size === 0) podsByNodeAndAccount.delete(groupOf(pod));
  };
  let synced = false;
  const watch = registry.watch('Pod', {
    added: add,
    changed: (pod, previous) => {
      remove(previous);
      add(pod);
    },
    removed: remove,
  });
  const markSynced = async (): Promise<void> => {
    await registry.synced();
    synced = true;
  };
  void markSynced();

  return {
    get synced() {
      return synced;
    },
    pod(namespace, name) {
      const pod = registry.get('Pod', { cluster, namespace, name });
      if (pod === undefined) return undefined;
      return {
        uid: pod.metadata.uid,
        nodeName: pod.spec.nodeName,
        serviceAccount: pod.spec.serviceAccountName,
        alive: !podTerminal(pod),
      };
    },
    onNode(nodeName, account) {
      const pods = podsByNodeAndAccount.get(groupKey(nodeName, account));
      if (pods === undefined) return { kind: 'unseen' };
      const reasons: string[] = [];
      for (const pod of pods.values()) {
        const reason = podTerminal(pod)
          ? `the pod has ended (${pod.status.phase})`
          : options.whyNotMeshed(pod);
        if (reason === undefined) return { kind: 'meshed' };
        if (reasons.length < REASONS_MAX) reasons.push(`${pod.metadata.name}: ${reason}`);
      }
      return { kind: 'not-meshed', reason: reasons.join(', ') };
    },
    close: () => watch.close(),
  };
}

const REASONS_MAX = 3;

const groupKey = (nodeName: string, account: Account): string =>
  `${nodeName}/${account.namespace}/${account.name}`;

const nameKey = (pod: Pod): string =>
  keyText({ cluster: pod.cluster, namespace: pod.metadata.namespace, name: pod.metadata.name });
