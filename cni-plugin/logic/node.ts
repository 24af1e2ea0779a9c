// SPDX-License-Identifier: Apache-2.0
// What the CNI plugin's logic asks of the node: implemented by agent/node, faked in tests.

import type { Attachment } from './call.ts';

export interface CniPod {
  readonly containerId: string;
  readonly netnsPath: string;
  readonly ifname: string;
  /** Name of the network that the pod is attached to; empty if the configuration has none. */
  readonly network: string;
  /** From CNI_ARGS: K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID (empty when the runtime sends none). */
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Addresses of the previous plugin's result, without prefix length. */
  readonly addresses: readonly string[];
}

export type CniAddOutcome =
  | { readonly outcome: 'enrolled' }
  /** Not ours (not opted in, or unknown and of no enrolled namespace): starts outside the mesh. */
  | { readonly outcome: 'passed'; readonly reason: string }
  /** Opted in but cannot be meshed now: the runtime shall try again (CNI code 11). */
  | { readonly outcome: 'try-again'; readonly reason: string };

export type CniCheckOutcome =
  /** Meshed as it shall be, or not of the mesh. */
  { readonly outcome: 'sound' } | { readonly outcome: 'broken'; readonly reason: string };

export interface CniNode {
  addPod(pod: CniPod): Promise<CniAddOutcome>;
  checkPod(pod: CniPod): Promise<CniCheckOutcome>;
  /** Always succeeds, also for a pod that is not known, and when called again. */
  removePod(containerId: string, uid: string, ifname?: string): Promise<void>;
  /** Lets go of every attachment to the network that is not among these; other networks' stay. */
  keepOnly(network: string, attachments: readonly Attachment[]): Promise<void>;
}
