// SPDX-License-Identifier: Apache-2.0
// The cluster of the scale benchmark as manifests: services with ten endpoints each, spread over nodes with an agent
// each. Pure.

export interface Population {
  readonly services: number;
  readonly endpoints: number;
  readonly agents: number;
}

const NAMESPACES = 10;
export const MESH_NAMESPACE = 'nodemesh';
export const CLUSTER = 'scale';

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string } & Readonly<
    Record<string, unknown>
  >;
  readonly [field: string]: unknown;
}

export interface ScalePod {
  readonly namespace: string;
  readonly name: string;
  readonly service: number;
  readonly ip: string;
  readonly node: string;
}

export const nodeName = (index: number): string => `scale-${index}`;
export const agentName = (index: number): string => `agent-scale-${index}`;
export const namespaceOf = (service: number): string => `scale-${service % NAMESPACES}`;
export const serviceName = (service: number): string => `service-${service}`;
export const authorityOf = (service: number): string =>
  `${serviceName(service)}.${namespaceOf(service)}.svc.cluster.local:80`;

/** Endpoints of one service are on different nodes. */
export function podsOf({ services, endpoints, agents }: Population): ScalePod[] {
  return Array.from({ length: endpoints }, (_, index) => {
    const service = index % services;
    return {
      namespace: namespaceOf(service),
      name: `pod-${index}`,
      service,
      ip: `10.${128 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`,
      node: nodeName((index * 7 + Math.floor(index / services)) % agents),
    };
  });
}

export const conditions = (ready: boolean) => [
  { type: 'Ready', status: ready ? 'True' : 'False', lastTransitionTime: '2026-01-01T00:00:00Z' },
];

export const podStatus = (ip: string, ready: boolean) => ({
  phase: 'Running',
  podIP: ip,
  podIPs: [{ ip }],
  conditions: conditions(ready),
});

/** About as long as pods are that a Deployment makes. */
export function podManifest(pod: ScalePod, ready = true): Manifest {
  const environment = Array.from({ length: 8 }, (_, index) => ({
    name: `VARIABLE_${index}`,
    value: `the value of variable ${index} of ${serviceName(pod.service)}`,
  }));
  const probe = { httpGet: { path: '/ready', port: 'http' }, periodSeconds: 10 };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: pod.name,
      namespace: pod.namespace,
      labels: {
        app: serviceName(pod.service),
        'app.kubernetes.io/instance': 'scale',
        'pod-template-hash': `hash${pod.service}`,
      },
      annotations: { 'example.org/checksum': 'a'.repeat(64) },
    },
    spec: {
      nodeName: pod.node,
      serviceAccountName: 'default',
      terminationGracePeriodSeconds: 0,
      containers: [
        {
          name: 'main',
          image: `example.org/scale/${serviceName(pod.service)}:1.2.3`,
          ports: [{ name: 'http', containerPort: 8080 }],
          env: environment,
          resources: { requests: { cpu: '1m', memory: '1Mi' } },
          readinessProbe: probe,
          livenessProbe: probe,
        },
      ],
    },
    status: podStatus(pod.ip, ready),
  };
}

export const serviceManifest = (service: number): Manifest => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: serviceName(service), namespace: namespaceOf(service) },
  spec: { selector: { app: serviceName(service) }, ports: [{ name: 'http', port: 80, targetPort: 'http' }] },
});

export const nodeManifest = (index: number): Manifest => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name: nodeName(index), labels: { 'topology.kubernetes.io/zone': `zone-${index % 3}` } },
});

export const agentManifest = (index: number): Manifest => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: agentName(index), namespace: MESH_NAMESPACE },
  spec: {
    nodeName: nodeName(index),
    serviceAccountName: 'nodemesh-agent',
    terminationGracePeriodSeconds: 0,
    containers: [{ name: 'agent', image: 'nodemesh/agent:scale' }],
  },
  status: podStatus(`10.255.${index >> 8}.${index & 255}`, true),
});

export const namespaceManifests = (): Manifest[] => [
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: MESH_NAMESPACE } },
  ...Array.from({ length: NAMESPACES }, (_, index) => ({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name: `scale-${index}`, annotations: { 'linkerd.io/inject': 'enabled' } },
  })),
];

export const agentAccount: Manifest = {
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: { name: 'nodemesh-agent', namespace: MESH_NAMESPACE },
};
