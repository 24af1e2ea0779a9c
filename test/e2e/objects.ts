// SPDX-License-Identifier: Apache-2.0
// Kubernetes objects as the end-to-end tests need them, in few words.

type Labels = Readonly<Record<string, string>>;
export type KubernetesObject = Readonly<Record<string, unknown>>;

export const namespace = (name: string, annotations: Labels = {}): KubernetesObject => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, annotations },
});

export const meshed: Labels = { 'linkerd.io/inject': 'enabled' };

export const serviceAccount = (ns: string, name: string): KubernetesObject => ({
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: { name, namespace: ns },
});

export interface PodOptions {
  readonly node?: string;
  readonly account?: string;
  readonly annotations?: Labels;
  readonly labels?: Labels;
  readonly ports?: readonly number[];
  readonly securityContext?: Readonly<Record<string, unknown>>;
  readonly readinessPort?: number;
}

/** A pod of one container; without a command it sleeps. Ready when something listens on `readinessPort`. */
export function pod(
  ns: string,
  name: string,
  command: readonly string[],
  options: PodOptions = {},
): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace: ns,
      labels: { app: name, ...options.labels },
      annotations: options.annotations ?? {},
    },
    spec: {
      ...(options.node === undefined ? {} : { nodeSelector: { 'kubernetes.io/hostname': options.node } }),
      ...(options.account === undefined ? {} : { serviceAccountName: options.account }),
      terminationGracePeriodSeconds: 1,
      containers: [
        {
          name: 'main',
          image: 'unused',
          command: command.length === 0 ? ['sleep', 'infinity'] : [...command],
          ...(options.ports === undefined
            ? {}
            : { ports: options.ports.map((containerPort) => ({ containerPort })) }),
          ...(options.securityContext === undefined ? {} : { securityContext: options.securityContext }),
          ...(options.readinessPort === undefined
            ? {}
            : { readinessProbe: { tcpSocket: { port: options.readinessPort }, periodSeconds: 1 } }),
        },
      ],
    },
  };
}

export interface ServiceOptions {
  readonly headless?: boolean;
  readonly targetPort?: number;
  readonly annotations?: Labels;
  readonly protocol?: 'TCP' | 'UDP';
  readonly selector?: Labels;
}

/** A dual-stack service that selects `app: name`. */
export function service(
  ns: string,
  name: string,
  port: number,
  options: ServiceOptions = {},
): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: ns, annotations: options.annotations ?? {} },
    spec: {
      selector: options.selector ?? { app: name },
      ipFamilyPolicy: 'PreferDualStack',
      ...(options.headless === true ? { clusterIP: 'None' } : {}),
      ports: [
        { name: 'main', port, targetPort: options.targetPort ?? port, protocol: options.protocol ?? 'TCP' },
      ],
    },
  };
}
