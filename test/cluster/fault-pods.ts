// SPDX-License-Identifier: Apache-2.0
// Pods of the tests of faults, beside the load's: one that tells in its log who it was to others when it began, and a
// Deployment whose pods can be taken away one by one.

import { TEST_IMAGE } from '../../scripts/images/layout.ts';
import { HTTP_PORT, TCP_PORT } from '../faults/load.ts';
import { ECHO, loadMount, loadVolume, OPAQUE } from './load-pods.ts';

const WHO = `require('http').createServer((request, response) =>
  response.end((request.headers['l5d-client-id'] ?? 'nobody') + '\\n')).listen(${HTTP_PORT}, '::')`;

const pod = (
  namespace: string,
  name: string,
  node: string,
  command: readonly string[],
  more: object = {},
): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace, labels: { app: name } },
  spec: {
    nodeSelector: { 'kubernetes.io/hostname': node },
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'main', image: TEST_IMAGE, imagePullPolicy: 'Never', command, ...more }],
  },
});

const servicePorts = (...ports: readonly number[]): object[] =>
  ports.map((port) => ({ name: `p${port}`, port, targetPort: port }));

/** A pod and service that answers each request with the identity of who asks. */
export const witness = (namespace: string, name: string, node: string): object[] => [
  pod(namespace, name, node, ['node', '--eval', WHO], {
    readinessProbe: { tcpSocket: { port: HTTP_PORT }, periodSeconds: 1 },
  }),
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: { selector: { app: name }, ports: servicePorts(HTTP_PORT) },
  },
];

/** Asks the witness first of all, each time its container starts; the answer is its log. */
export const starter = (namespace: string, name: string, node: string, witnessAddress: string): object =>
  pod(namespace, name, node, [
    'sh',
    '-c',
    `curl -sS --max-time 30 http://${witnessAddress}:${HTTP_PORT}/ 2>&1; exec sleep infinity`,
  ]);

/** As every server that shall be moved: it goes on for a while after it was told to end, until nobody comes. */
const SERVE = `node ${ECHO} ${HTTP_PORT} ${TCP_PORT} & server=$!
trap 'sleep 4; kill $server; exit 0' TERM
wait $server`;

/** An echo server on each of so many nodes, never two on one and none on those that are named. */
export const spread = (
  namespace: string,
  name: string,
  replicas: number,
  notOn: readonly string[],
): object[] => {
  const labels = { app: name };
  const elsewhere = [{ key: 'kubernetes.io/hostname', operator: 'NotIn', values: notOn }];
  return [
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, namespace },
      spec: {
        replicas,
        selector: { matchLabels: labels },
        template: {
          metadata: { labels, annotations: OPAQUE },
          spec: {
            terminationGracePeriodSeconds: 10,
            affinity: {
              ...(notOn.length > 0 && {
                nodeAffinity: {
                  requiredDuringSchedulingIgnoredDuringExecution: {
                    nodeSelectorTerms: [{ matchExpressions: elsewhere }],
                  },
                },
              }),
              podAntiAffinity: {
                requiredDuringSchedulingIgnoredDuringExecution: [
                  { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: labels } },
                ],
              },
            },
            containers: [
              {
                name: 'main',
                image: TEST_IMAGE,
                imagePullPolicy: 'Never',
                command: ['sh', '-c', SERVE],
                volumeMounts: [loadMount],
                readinessProbe: { tcpSocket: { port: TCP_PORT }, periodSeconds: 1 },
              },
            ],
            volumes: [loadVolume],
          },
        },
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name, namespace, annotations: OPAQUE },
      spec: { selector: labels, ports: servicePorts(HTTP_PORT, TCP_PORT) },
    },
    {
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata: { name, namespace },
      spec: { maxUnavailable: 1, selector: { matchLabels: labels } },
    },
  ];
};
