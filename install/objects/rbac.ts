// SPDX-License-Identifier: Apache-2.0
// What each account of the control plane may do, each rule with the feature that needs it. A test on a cluster takes
// each rule away and sees that feature fail; another compares this table with docs/reference/rbac.md.

import { namespace, type TreeMap } from '../tree.ts';
import { clusterMetadata, metadata } from './common.ts';

export interface AccountRule {
  /** A ServiceAccount of the install namespace. */
  readonly account: string;
  readonly apiGroup: string;
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
  /** Only these objects. */
  readonly resourceNames?: readonly string[];
  /** Only in the install namespace. */
  readonly ownNamespace?: boolean;
  /** What fails without the rule. */
  readonly feature: string;
}

const identity = 'linkerd-identity';
const destination = 'linkerd-destination';
const policyValidator = 'linkerd-policy-validator';
const read = ['list', 'watch'];

export const accountRules: readonly AccountRule[] = [
  {
    account: identity,
    apiGroup: 'authentication.k8s.io',
    resources: ['tokenreviews'],
    verbs: ['create'],
    feature: 'Every certificate: without it nobody can prove who they are.',
  },
  {
    account: identity,
    apiGroup: '',
    resources: ['pods', 'namespaces'],
    verbs: read,
    feature: "Agents' requests for the certificates of their node's pods, and readiness of identity.",
  },
  {
    account: identity,
    apiGroup: '',
    resources: ['events'],
    verbs: ['create', 'get', 'patch'],
    ownNamespace: true,
    feature: 'Events about issuer and trust anchors.',
  },
  {
    account: destination,
    apiGroup: 'authentication.k8s.io',
    resources: ['tokenreviews'],
    verbs: ['create'],
    feature: "Agents' node streams: without it no agent is let in.",
  },
  {
    account: destination,
    apiGroup: '',
    resources: ['namespaces', 'nodes', 'pods', 'services'],
    verbs: read,
    feature: 'Endpoints, opting in, zones, and readiness of destination.',
  },
  {
    account: destination,
    apiGroup: 'apps',
    resources: ['replicasets'],
    verbs: read,
    feature: 'The label `deployment` of metrics.',
  },
  {
    account: destination,
    apiGroup: 'batch',
    resources: ['jobs'],
    verbs: read,
    feature: 'The label `cronjob` of metrics.',
  },
  {
    account: destination,
    apiGroup: 'discovery.k8s.io',
    resources: ['endpointslices'],
    verbs: read,
    feature: 'Zone hints, and endpoints that are no pods.',
  },
  {
    account: destination,
    apiGroup: 'policy.linkerd.io',
    resources: ['httproutes'],
    verbs: read,
    feature: "Linkerd's HTTPRoutes.",
  },
  {
    account: destination,
    apiGroup: 'linkerd.io',
    resources: ['serviceprofiles'],
    verbs: read,
    feature: 'Routes, targets and retry budgets of ServiceProfiles.',
  },
  {
    account: destination,
    apiGroup: 'workload.linkerd.io',
    resources: ['externalworkloads'],
    verbs: read,
    feature: 'Endpoints of Services that select ExternalWorkloads.',
  },
  {
    account: destination,
    apiGroup: 'gateway.networking.k8s.io',
    resources: ['httproutes', 'grpcroutes'],
    verbs: read,
    feature: "The Gateway API's routes.",
  },
  {
    account: destination,
    apiGroup: 'apiextensions.k8s.io',
    resources: ['customresourcedefinitions'],
    resourceNames: [
      'httproutes.policy.linkerd.io',
      'httproutes.gateway.networking.k8s.io',
      'grpcroutes.gateway.networking.k8s.io',
      'serviceprofiles.linkerd.io',
      'externalworkloads.workload.linkerd.io',
    ],
    verbs: ['get'],
    feature:
      'The last routes, profiles and external workloads stay in force when their CustomResourceDefinition is deleted.',
  },
  {
    account: destination,
    apiGroup: '',
    resources: ['pods/status'],
    verbs: ['patch'],
    feature: 'The condition nodemesh.io/Enrolled: without it no pod is ever reached through the mesh.',
  },
  {
    account: destination,
    apiGroup: '',
    resources: ['events'],
    verbs: ['create', 'get', 'patch'],
    feature: 'Events that say why a pod is not in the mesh.',
  },
  {
    account: destination,
    apiGroup: 'coordination.k8s.io',
    resources: ['leases'],
    resourceNames: ['linkerd-destination'],
    verbs: ['get', 'update'],
    ownNamespace: true,
    feature: 'That one replica does what only one may do: Events about pods, startup taints.',
  },
  {
    account: destination,
    apiGroup: '',
    resources: ['nodes'],
    verbs: ['patch'],
    feature: 'The startup taint is taken off a node whose agent is ready.',
  },
  {
    account: policyValidator,
    apiGroup: '',
    resources: ['secrets'],
    resourceNames: ['linkerd-policy-validator-k8s-tls'],
    verbs: ['get', 'update'],
    ownNamespace: true,
    feature: "The webhook's certificate: kept for all replicas, and renewed.",
  },
  {
    account: policyValidator,
    apiGroup: 'admissionregistration.k8s.io',
    resources: ['validatingwebhookconfigurations'],
    resourceNames: ['nodemesh-policy-validator'],
    verbs: ['get', 'patch'],
    feature: 'That the API server trusts the certificate of the webhook.',
  },
];

/** Roles and bindings of an account; cluster-wide ones are named nodemesh-*. */
export function rbacOf(account: string, component: string): TreeMap[] {
  const rules = accountRules.filter((rule) => rule.account === account);
  const subjects = [{ kind: 'ServiceAccount', name: account, namespace }];
  const of = (which: readonly AccountRule[]): TreeMap[] =>
    which.map(({ apiGroup, resources, verbs, resourceNames }) => ({
      apiGroups: [apiGroup],
      resources,
      ...(resourceNames === undefined ? {} : { resourceNames }),
      verbs,
    }));
  const clusterWide = rules.filter(({ ownNamespace }) => ownNamespace !== true);
  const local = rules.filter(({ ownNamespace }) => ownNamespace === true);
  const apiVersion = 'rbac.authorization.k8s.io/v1';
  const apiGroup = 'rbac.authorization.k8s.io';
  const name = `nodemesh-${component}`;
  const objects: TreeMap[] = [];
  if (clusterWide.length > 0) {
    objects.push(
      { apiVersion, kind: 'ClusterRole', metadata: clusterMetadata(name, component), rules: of(clusterWide) },
      {
        apiVersion,
        kind: 'ClusterRoleBinding',
        metadata: clusterMetadata(name, component),
        roleRef: { apiGroup, kind: 'ClusterRole', name },
        subjects,
      },
    );
  }
  if (local.length > 0) {
    objects.push(
      { apiVersion, kind: 'Role', metadata: metadata(account, component), rules: of(local) },
      {
        apiVersion,
        kind: 'RoleBinding',
        metadata: metadata(account, component),
        roleRef: { apiGroup, kind: 'Role', name: account },
        subjects,
      },
    );
  }
  return objects;
}
