// SPDX-License-Identifier: Apache-2.0
// Objects of the tests with a peer: pods in which the peer is Linkerd's proxy, and services of all ports.

import { join } from 'node:path';
import { service } from '../e2e/objects.ts';
import { TOKEN_MOUNT } from './environment.ts';
import { ports } from './talk.ts';

/** Where a local mesh runs identity and destination. */
const CONTROL = '172.18.0.2';

export const program = (name: string): string => join(import.meta.dirname, name);
export const identity = (account: string, namespace = 'shop'): string =>
  `${account}.${namespace}.serviceaccount.identity.linkerd.cluster.local`;
export const hostOf = (name: string): string => `${name}.shop.svc.cluster.local`;

export interface PeerOptions {
  readonly namespace?: string;
  /** Ready when something listens there; the mesh's port if absent. */
  readonly readinessPort?: number;
}

/** A pod with Linkerd's proxy, which is the peer: it runs `command`, or nothing. The account has its name. */
export const peer = (
  name: string,
  node: string,
  command: readonly string[],
  { namespace = 'shop', readinessPort = 4143 }: PeerOptions = {},
) => {
  const env = { CONTROL_ADDRESS: CONTROL, IDENTITY: identity(name, namespace) };
  const serving = command.length > 0;
  const probe = { readinessProbe: { tcpSocket: { port: readinessPort }, periodSeconds: 1 } };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: name, 'linkerd.io/control-plane-ns': 'linkerd' } },
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': node },
      serviceAccountName: name,
      terminationGracePeriodSeconds: 1,
      containers: [
        {
          name: 'linkerd-proxy',
          image: 'unused',
          command: serving ? [process.execPath, ...command] : ['sleep', 'infinity'],
          env: Object.entries(env).map(([variable, value]) => ({ name: variable, value })),
          volumeMounts: [{ name: 'token', mountPath: TOKEN_MOUNT }],
          ...(serving ? probe : {}),
        },
      ],
      volumes: [
        {
          name: 'token',
          projected: {
            sources: [
              {
                serviceAccountToken: {
                  audience: 'identity.l5d.io',
                  expirationSeconds: 86_400,
                  path: 'linkerd-identity-token',
                },
              },
            ],
          },
        },
      ],
    },
  };
};

export const servicesOf = (name: string) => ({
  ...service('shop', name, 0),
  spec: {
    selector: { app: name },
    ports: [...new Set(Object.values(ports))].map((port) => ({ name: `p${port}`, port, targetPort: port })),
  },
});
