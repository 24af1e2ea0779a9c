// SPDX-License-Identifier: Apache-2.0
// Kubernetes objects that suites on a cluster need again and again: applications of the test image, and services.

import { TEST_IMAGE } from '../../scripts/images/layout.ts';

export interface ApplicationOptions {
  readonly namespace: string;
  readonly name: string;
  readonly replicas?: number;
  /** Runs in the image of tests, which has a shell, busybox, curl and Node.js. */
  readonly command: readonly string[];
  readonly port?: number;
  /** Of each pod, in place of the default account. */
  readonly serviceAccount?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly labels?: Readonly<Record<string, string>>;
  /** Added to the pod's specification. */
  readonly pod?: Readonly<Record<string, unknown>>;
  /** Added to the container's. */
  readonly container?: Readonly<Record<string, unknown>>;
}

/** A Deployment whose pods are spread over the nodes, labelled `app: name`. */
export function application(options: ApplicationOptions): object {
  const { namespace, name, port } = options;
  const labels = { app: name, ...options.labels };
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { namespace, name },
    spec: {
      replicas: options.replicas ?? 1,
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels, ...(options.annotations && { annotations: options.annotations }) },
        spec: {
          terminationGracePeriodSeconds: 1,
          ...(options.serviceAccount !== undefined && { serviceAccountName: options.serviceAccount }),
          topologySpreadConstraints: [
            {
              maxSkew: 1,
              topologyKey: 'kubernetes.io/hostname',
              whenUnsatisfiable: 'DoNotSchedule',
              labelSelector: { matchLabels: { app: name } },
            },
          ],
          containers: [
            {
              name,
              image: TEST_IMAGE,
              imagePullPolicy: 'Never',
              command: options.command,
              ...(port !== undefined && {
                ports: [{ containerPort: port }],
                readinessProbe: { tcpSocket: { port }, periodSeconds: 1 },
              }),
              ...options.container,
            },
          ],
          ...options.pod,
        },
      },
    },
  };
}

export function service(
  namespace: string,
  name: string,
  port: number,
  spec: Readonly<Record<string, unknown>> = {},
  labels: Readonly<Record<string, string>> = {},
): object {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { namespace, name, labels },
    spec: { selector: { app: name }, ports: [{ name: 'http', port, targetPort: port }], ...spec },
  };
}
