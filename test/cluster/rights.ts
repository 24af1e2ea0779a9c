// SPDX-License-Identifier: Apache-2.0
// Takes a right away from an account of the control plane, and gives it back.

import assert from 'node:assert/strict';
import type { AccountRule } from '../../install/objects/rbac.ts';
import type { Cluster, KubernetesObject } from './cluster.ts';

const NS = 'nodemesh';

interface RoleObject extends KubernetesObject {
  readonly rules: readonly Record<string, unknown>[];
}

export const accountComponents: Readonly<Record<string, string>> = {
  'linkerd-identity': 'identity',
  'linkerd-destination': 'destination',
  'linkerd-policy-validator': 'policy-validator',
};

/** What the API server says when the account uses the right, whoever asks. */
async function mayUse(cluster: Cluster, rule: AccountRule): Promise<boolean> {
  const [resource = ''] = rule.resources;
  const [name, subresource] = resource.split('/');
  const of = rule.apiGroup === '' ? (name ?? '') : `${name ?? ''}.${rule.apiGroup}`;
  const answer = await cluster.tryKubectl([
    'auth',
    'can-i',
    rule.verbs[0] ?? '',
    rule.resourceNames === undefined ? of : `${of}/${rule.resourceNames[0] ?? ''}`,
    ...(subresource === undefined ? [] : [`--subresource=${subresource}`]),
    `--as=system:serviceaccount:${NS}:${rule.account}`,
    ...(rule.ownNamespace === true ? [`--namespace=${NS}`] : []),
  ]);
  return answer.stdout.trim() === 'yes';
}

/** Resolves when it is gone, with the way to give it back. */
export async function takeAway(cluster: Cluster, rule: AccountRule): Promise<() => Promise<void>> {
  const role =
    rule.ownNamespace === true
      ? ['role', rule.account, `--namespace=${NS}`]
      : ['clusterrole', `nodemesh-${accountComponents[rule.account] ?? ''}`];
  const set = async (to: readonly Record<string, unknown>[]): Promise<void> => {
    await cluster.kubectl(['patch', ...role, '--type=merge', `--patch=${JSON.stringify({ rules: to })}`]);
  };
  const { rules } = await cluster.get<RoleObject>(role);
  const index = rules.findIndex(
    ({ apiGroups, resources }) =>
      JSON.stringify([apiGroups, resources]) === JSON.stringify([[rule.apiGroup], rule.resources]),
  );
  assert.ok(index >= 0, 'the role has the rule');
  await set(rules.toSpliced(index, 1));
  await cluster.waitFor('the right to be gone', async () => !(await mayUse(cluster, rule)));
  return async () => {
    await set(rules);
    await cluster.waitFor('the right to be back', () => mayUse(cluster, rule));
  };
}
