// SPDX-License-Identifier: Apache-2.0
// The namespace, and the installation's values as later commands read them.

import type { KubernetesObject } from '../render-objects.ts';
import { creator, namespace, type ObjectGroup, storedValues } from '../tree.ts';
import { CONTROL_PLANE_LABEL, metadata } from './common.ts';

const COMPONENT = 'config';

export const CONFIG_MAP = 'linkerd-config';
export const OVERRIDES_SECRET = 'linkerd-config-overrides';

/** Only `mesh install` prints it: Helm's users make namespaces themselves. */
export const namespaceGroup: ObjectGroup = {
  name: 'namespace',
  objects: [
    {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: {
        name: namespace,
        labels: {
          'app.kubernetes.io/name': 'nodemesh',
          'app.kubernetes.io/part-of': 'nodemesh',
          [CONTROL_PLANE_LABEL]: namespace,
          'config.linkerd.io/admission-webhooks': 'disabled',
          'linkerd.io/is-control-plane': 'true',
          'pod-security.kubernetes.io/enforce': 'privileged',
        },
        annotations: { 'linkerd.io/inject': 'disabled', 'nodemesh.io/created-by': creator },
      },
    },
  ],
};

export const config: ObjectGroup = {
  name: 'config',
  objects: [
    {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: metadata(CONFIG_MAP, COMPONENT),
      data: { values: storedValues },
    },
  ],
};

/** What differs from the defaults, private keys included: `mesh upgrade` starts from it. Never part of the chart. */
export function overridesSecret(options: {
  readonly namespace: string;
  readonly creator: string;
  readonly overrides: string;
}): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: {
      name: OVERRIDES_SECRET,
      namespace: options.namespace,
      labels: {
        'app.kubernetes.io/name': 'nodemesh',
        'app.kubernetes.io/part-of': 'nodemesh',
        [CONTROL_PLANE_LABEL]: options.namespace,
      },
      annotations: { 'nodemesh.io/created-by': options.creator },
    },
    stringData: { [OVERRIDES_SECRET]: options.overrides },
  };
}
