// SPDX-License-Identifier: Apache-2.0
// What the mesh's objects have in common: names, labels, the shape of a control-plane pod.

import {
  any,
  concat,
  creator,
  either,
  equals,
  type Expression,
  given,
  merge,
  namespace,
  not,
  text,
  type Tree,
  type TreeMap,
  value,
  type When,
  when,
} from '../tree.ts';

/** On every object of the mesh; what uninstall and prune look for. */
export const CONTROL_PLANE_LABEL = 'nodemesh.io/control-plane-ns';
export const COMPONENT_LABEL = 'nodemesh.io/control-plane-component';

const COMMON_LABELS: TreeMap = {
  'app.kubernetes.io/name': 'nodemesh',
  'app.kubernetes.io/part-of': 'nodemesh',
  [CONTROL_PLANE_LABEL]: namespace,
};

export const componentLabels = (component: string): TreeMap => ({
  ...COMMON_LABELS,
  'app.kubernetes.io/component': component,
  [COMPONENT_LABEL]: component,
});

export const annotations: TreeMap = { 'nodemesh.io/created-by': creator };

export const clusterMetadata = (name: string, component: string): TreeMap => ({
  name,
  labels: merge(componentLabels(component), value('commonLabels')),
  annotations,
});

export const metadata = (name: string, component: string): TreeMap => ({
  name,
  namespace,
  labels: merge(componentLabels(component), value('commonLabels')),
  annotations,
});

export const trustDomain: Expression = either(value('identityTrustDomain'), value('clusterDomain'));

/** An account of the control plane as an identity: that of its own account, like everybody else's. */
export const ownIdentity = (account: string): Expression =>
  text(`${account}.`, namespace, '.serviceaccount.identity.', value('identity.namespace'), '.', trustDomain);

export const env = (name: string, of: string | Expression): TreeMap => ({ name, value: of });

export const serviceAccount = (name: string, component: string): TreeMap => ({
  apiVersion: 'v1',
  kind: 'ServiceAccount',
  metadata: metadata(name, component),
});

export interface ServiceOptions {
  readonly name: string;
  readonly component: string;
  readonly headless?: boolean;
  readonly portName: string;
  readonly port: number;
  readonly targetPort: string;
}

export const service = (options: ServiceOptions): TreeMap => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: metadata(options.name, options.component),
  spec: {
    ...(options.headless === true ? { clusterIP: 'None' } : { type: 'ClusterIP' }),
    selector: { [COMPONENT_LABEL]: options.component },
    ports: [{ name: options.portName, port: options.port, targetPort: options.targetPort, protocol: 'TCP' }],
  },
});

export const disruptionBudget = (name: string, component: string): When =>
  when(given('enablePodDisruptionBudget'), {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: metadata(name, component),
    spec: {
      maxUnavailable: value('controller.podDisruptionBudget.maxUnavailable'),
      selector: { matchLabels: { [COMPONENT_LABEL]: component } },
    },
  });

export interface Volume {
  readonly name: string;
  readonly path: string;
  readonly source: TreeMap;
}

export const TRUST_ROOTS = 'linkerd-identity-trust-roots';

/** The trust anchors as a file, and where the programs look for them. */
export const trustRoots: Volume = {
  name: 'trust-roots',
  path: '/var/run/linkerd/identity/trust-roots',
  source: { configMap: { name: TRUST_ROOTS } },
};
export const trustRootsFile: TreeMap = env('NODEMESH_TRUST_ANCHORS_FILE', `${trustRoots.path}/ca-bundle.crt`);

export interface ControlPlaneOptions {
  /** Of Deployment and ServiceAccount. */
  readonly name: string;
  readonly component: string;
  /** `identity/main.ts` */
  readonly program: string;
  readonly env: readonly TreeMap[];
  readonly ports: readonly { readonly name: string; readonly port: number }[];
  readonly volumes: readonly Volume[];
  readonly resources: string;
}

const ADMIN_PORT_NAME = 'admin';

/** The account's token under the path where clients look for it, renewed by the kubelet every hour. */
const apiToken: Volume = {
  name: 'kube-api-access',
  path: '/var/run/secrets/kubernetes.io/serviceaccount',
  source: {
    projected: {
      defaultMode: 0o444,
      sources: [
        { serviceAccountToken: { path: 'token', expirationSeconds: 3607 } },
        { configMap: { name: 'kube-root-ca.crt', items: [{ key: 'ca.crt', path: 'ca.crt' }] } },
        {
          downwardAPI: {
            items: [{ path: 'namespace', fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.namespace' } }],
          },
        },
      ],
    },
  },
};

/** One part of the control plane; its pods satisfy the pod security standard "restricted". */
export function controlPlane(options: ControlPlaneOptions): TreeMap {
  const volumes = [...options.volumes, apiToken];
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadata(options.name, options.component),
    spec: {
      replicas: value('controllerReplicas'),
      revisionHistoryLimit: 10,
      selector: { matchLabels: { [COMPONENT_LABEL]: options.component } },
      strategy: value('deploymentStrategy'),
      template: {
        metadata: {
          labels: merge(componentLabels(options.component), merge(value('podLabels'), value('commonLabels'))),
          annotations: merge({ 'linkerd.io/inject': 'disabled', ...annotations }, value('podAnnotations')),
        },
        spec: {
          serviceAccountName: options.name,
          automountServiceAccountToken: false,
          nodeSelector: value('nodeSelector'),
          priorityClassName: when(given('priorityClassName'), value('priorityClassName')),
          runtimeClassName: when(given('runtimeClassName'), value('runtimeClassName')),
          imagePullSecrets: when(given('imagePullSecrets'), value('imagePullSecrets')),
          tolerations: concat(
            [{ key: value('nodemesh.startupTaint'), operator: 'Exists', effect: 'NoSchedule' }],
            value('tolerations'),
          ),
          affinity: affinity(options.component),
          securityContext: {
            runAsNonRoot: true,
            runAsUser: value('controllerUID'),
            runAsGroup: when(not(equals('controllerGID', -1)), value('controllerGID')),
            seccompProfile: { type: 'RuntimeDefault' },
          },
          containers: [
            {
              name: options.component,
              image: imageOf('controllerImage'),
              imagePullPolicy: value('imagePullPolicy'),
              terminationMessagePolicy: 'FallbackToLogsOnError',
              command: ['node', options.program],
              env: options.env,
              ports: options.ports.map(({ name, port }) => ({ name, containerPort: port, protocol: 'TCP' })),
              livenessProbe: {
                httpGet: { path: '/live', port: ADMIN_PORT_NAME },
                initialDelaySeconds: 10,
              },
              readinessProbe: {
                httpGet: { path: '/ready', port: ADMIN_PORT_NAME },
                periodSeconds: 2,
                failureThreshold: 3,
              },
              resources: resourcesOf(options.resources),
              securityContext: {
                allowPrivilegeEscalation: false,
                readOnlyRootFilesystem: true,
                capabilities: { drop: ['ALL'] },
              },
              volumeMounts: volumes.map(({ name, path }) => ({ name, mountPath: path, readOnly: true })),
            },
          ],
          volumes: volumes.map(({ name, source }) => ({ name, ...source })),
        },
      },
    },
  };
}

export const imageOf = (path: string): Tree =>
  when(
    given('nodemesh.registry'),
    text(value('nodemesh.registry'), '/', value(path), ':', value('nodemesh.version')),
    text(value(path), ':', value('nodemesh.version')),
  );

export const resourcesOf = (path: string): Tree => {
  const one = (kind: string): Tree =>
    when(any(given(`${path}.cpu.${kind}`), given(`${path}.memory.${kind}`)), {
      cpu: when(given(`${path}.cpu.${kind}`), value(`${path}.cpu.${kind}`)),
      memory: when(given(`${path}.memory.${kind}`), value(`${path}.memory.${kind}`)),
    });
  const all = ['cpu.request', 'cpu.limit', 'memory.request', 'memory.limit'].map((end) =>
    given(`${path}.${end}`),
  );
  return when(any(...all), { requests: one('request'), limits: one('limit') });
};

const affinity = (component: string): Tree => {
  const term = (topologyKey: string): TreeMap => ({
    labelSelector: { matchLabels: { [COMPONENT_LABEL]: component } },
    topologyKey,
  });
  return when(any(given('enablePodAntiAffinity'), given('nodeAffinity')), {
    nodeAffinity: when(given('nodeAffinity'), value('nodeAffinity')),
    podAntiAffinity: when(given('enablePodAntiAffinity'), {
      requiredDuringSchedulingIgnoredDuringExecution: [term('kubernetes.io/hostname')],
      preferredDuringSchedulingIgnoredDuringExecution: [
        { weight: 100, podAffinityTerm: term('topology.kubernetes.io/zone') },
      ],
    }),
  });
};
