// SPDX-License-Identifier: Apache-2.0
// The load of the fault tests (test/faults/load.ts) on a cluster: its programs come to the pods as a ConfigMap.

import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { TEST_IMAGE } from '../../scripts/images/layout.ts';
import { HTTP_PORT, type LoadGround, TCP_PORT } from '../faults/load.ts';
import type { Cluster } from './cluster.ts';

const ROOT = resolve(import.meta.dirname, '../..');
const FOLDER = '/load';
const PROGRAMS = 'load-programs';
/** What the client and the server import, from the root of the project. */
const files = [
  'package.json',
  'lib/core/errors.ts',
  'lib/core/patient-clock.ts',
  'test/faults/load-engine.ts',
  'test/faults/programs/load-client.ts',
  'test/faults/programs/echo.ts',
  'test/e2e/programs/keep-using.ts',
];
export const ECHO = `${FOLDER}/test/faults/programs/echo.ts`;
/** Uses one connection for some seconds, in a pod. */
export const KEEP_USING = `${FOLDER}/test/e2e/programs/keep-using.ts`;
const keyOf = (file: string): string => file.replaceAll('/', '.');

/** Must be in each namespace with pods of the load. */
export const loadPrograms = (namespace: string): object => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name: PROGRAMS, namespace },
  data: Object.fromEntries(files.map((file) => [keyOf(file), readFileSync(join(ROOT, file), 'utf8')])),
});

export const OPAQUE = { 'config.linkerd.io/opaque-ports': String(TCP_PORT) };

export interface LoadPodOptions {
  readonly node: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

export const loadVolume = {
  name: 'load',
  configMap: { name: PROGRAMS, items: files.map((file) => ({ key: keyOf(file), path: file })) },
};
export const loadMount = { name: 'load', mountPath: FOLDER, readOnly: true };

const loadPod = (
  namespace: string,
  name: string,
  command: readonly string[],
  { node, annotations }: LoadPodOptions,
  more: object,
): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace, labels: { app: name }, annotations: annotations ?? {} },
  spec: {
    nodeSelector: { 'kubernetes.io/hostname': node },
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: 'main',
        image: TEST_IMAGE,
        imagePullPolicy: 'Never',
        command,
        volumeMounts: [loadMount],
        ...more,
      },
    ],
    volumes: [loadVolume],
  },
});

/** An echo server as pod and service of that name. */
export const echoPod = (namespace: string, name: string, options: LoadPodOptions): object[] => [
  loadPod(
    namespace,
    name,
    ['node', ECHO, String(HTTP_PORT), String(TCP_PORT)],
    { ...options, annotations: { ...OPAQUE, ...options.annotations } },
    { readinessProbe: { tcpSocket: { port: TCP_PORT }, periodSeconds: 1 } },
  ),
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace, annotations: OPAQUE },
    spec: {
      selector: { app: name },
      ports: [HTTP_PORT, TCP_PORT].map((port) => ({ name: `p${port}`, port, targetPort: port })),
    },
  },
];

export const clientPod = (namespace: string, name: string, options: LoadPodOptions): object =>
  loadPod(namespace, name, ['sleep', 'infinity'], options, {});

/** For startLoad. */
export const groundOf = (cluster: Cluster): LoadGround => ({
  loadClient: `${FOLDER}/test/faults/programs/load-client.ts`,
  exec: (pod, argv, { ns = 'default', container, ...options } = {}) =>
    cluster.exec({ namespace: ns, pod, ...(container === undefined ? {} : { container }) }, argv, options),
});
