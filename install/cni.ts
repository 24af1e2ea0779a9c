// SPDX-License-Identifier: Apache-2.0
// Everything on the nodes, in the order in which it is applied: the keeper first, so that the agent finds it.

import { agent, cniConfig, keeper } from './objects/agent.ts';
import { type KubernetesObject, renderObjects } from './render-objects.ts';
import type { ObjectGroup } from './tree.ts';
import type { Values } from './values.ts';

export const cniGroups: readonly ObjectGroup[] = [cniConfig, keeper, agent];

export interface CniOptions {
  /** Checked as those of chart nodemesh-cni. */
  readonly values: Values;
  readonly namespace: string;
  readonly version: string;
}

export const cniObjects = ({ values, namespace, version }: CniOptions): KubernetesObject[] =>
  renderObjects(cniGroups, { values, namespace, creator: `nodemesh/cli ${version}` });
