// SPDX-License-Identifier: Apache-2.0
// The validating webhook. Its certificate is not made here: it makes one when it starts, so that what is rendered is
// always the same.

import { given, namespace, type ObjectGroup, type TreeMap, value, when } from '../tree.ts';
import {
  clusterMetadata,
  controlPlane,
  disruptionBudget,
  env,
  metadata,
  service,
  serviceAccount,
} from './common.ts';
import { rbacOf } from './rbac.ts';

const NAME = 'linkerd-policy-validator';
const COMPONENT = 'policy-validator';
const HTTPS_PORT = 9443;
const ADMIN_PORT = 9991;

export const CERTIFICATE_SECRET = 'linkerd-policy-validator-k8s-tls';
export const WEBHOOK_CONFIGURATION = 'nodemesh-policy-validator';

/** Namespaces with this label are left alone; beside Linkerd it marks the ones that are ours. */
const namespaceSelector = (operator: 'In' | 'NotIn'): TreeMap => ({
  matchExpressions: [
    { key: 'config.linkerd.io/admission-webhooks', operator, values: ['disabled'] },
    { key: 'kubernetes.io/metadata.name', operator: 'NotIn', values: ['kube-system', namespace] },
  ],
});

const webhook = (name: string, rules: readonly TreeMap[]): TreeMap => ({
  name,
  admissionReviewVersions: ['v1'],
  clientConfig: { service: { name: NAME, namespace, path: '/', port: 443 } },
  failurePolicy: value('webhookFailurePolicy'),
  matchPolicy: 'Equivalent',
  namespaceSelector: when(
    given('nodemesh.besideLinkerd'),
    namespaceSelector('In'),
    namespaceSelector('NotIn'),
  ),
  rules,
  sideEffects: 'None',
  timeoutSeconds: 10,
});

const operations = ['CREATE', 'UPDATE'];

export const policyValidator: ObjectGroup = {
  name: 'policy-validator',
  objects: [
    ...rbacOf(NAME, COMPONENT),
    serviceAccount(NAME, COMPONENT),
    {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: metadata(CERTIFICATE_SECRET, COMPONENT),
      type: 'Opaque',
    },
    service({ name: NAME, component: COMPONENT, portName: 'https', port: 443, targetPort: 'https' }),
    disruptionBudget(NAME, COMPONENT),
    controlPlane({
      name: NAME,
      component: COMPONENT,
      program: 'webhook/main.ts',
      env: [env('NODEMESH_NAMESPACE', namespace), env('NODEMESH_LOG_LEVEL', value('controllerLogLevel'))],
      ports: [
        { name: 'https', port: HTTPS_PORT },
        { name: 'admin', port: ADMIN_PORT },
      ],
      volumes: [],
      resources: 'policyValidatorResources',
    }),
    {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingWebhookConfiguration',
      metadata: clusterMetadata(WEBHOOK_CONFIGURATION, COMPONENT),
      webhooks: [
        webhook('linkerd-sp-validator.linkerd.io', [
          { operations, apiGroups: ['linkerd.io'], apiVersions: ['*'], resources: ['serviceprofiles'] },
        ]),
        webhook('linkerd-policy-validator.linkerd.io', [
          {
            operations,
            apiGroups: ['policy.linkerd.io'],
            apiVersions: ['*'],
            resources: [
              'authorizationpolicies',
              'egressnetworks',
              'httplocalratelimitpolicies',
              'httproutes',
              'meshtlsauthentications',
              'networkauthentications',
              'serverauthorizations',
              'servers',
            ],
          },
          {
            operations,
            apiGroups: ['gateway.networking.k8s.io'],
            apiVersions: ['*'],
            resources: ['httproutes', 'grpcroutes', 'tlsroutes', 'tcproutes'],
          },
        ]),
      ],
    },
  ],
};
