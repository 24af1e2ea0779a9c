// SPDX-License-Identifier: Apache-2.0
// Which fields of Kubernetes' manifests a local mesh takes. Strict: a field that is not here is refused with its
// name, never passed over. Fields that only matter on a cluster are taken and ignored (`ignored`).

import * as v from 'valibot';

/** Allowed, so that manifests made for a cluster work unchanged, but without effect here. */
const ignored = v.optional(v.unknown());

const DNS_NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

const name = v.pipe(
  v.string(),
  v.regex(
    DNS_NAME,
    'expected lower-case letters, digits, "-" and ".", beginning and ending with a letter or digit',
  ),
);
const label = v.pipe(
  v.string(),
  v.regex(
    DNS_LABEL,
    'expected at most 63 lower-case letters, digits and "-", beginning and ending with a letter or digit',
  ),
);
const stringMap = v.optional(v.record(v.string(), v.string()), {});
const portNumber = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65535));
const portReference = v.union([
  portNumber,
  v.pipe(v.string(), v.regex(/[a-z]/, 'expected a port name or number')),
]);
const seconds = v.pipe(v.number(), v.integer(), v.minValue(0));
const positive = v.pipe(v.number(), v.integer(), v.minValue(1));
const userId = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 31 - 1));
const absolutePath = v.pipe(v.string(), v.startsWith('/', 'expected an absolute path'));

const metadataEntries = {
  labels: stringMap,
  annotations: stringMap,
  creationTimestamp: ignored,
};
const namespacedMetadata = v.strictObject({ name, namespace: v.optional(label), ...metadataEntries });
const namespaceMetadata = v.strictObject({ name: label, ...metadataEntries });
const serviceMetadata = v.strictObject({ name: label, namespace: v.optional(label), ...metadataEntries });
const templateMetadata = v.optional(
  v.strictObject({ name: ignored, namespace: ignored, ...metadataEntries }),
  {},
);

export const probeSchema = v.strictObject({
  httpGet: v.optional(
    v.strictObject({
      port: portReference,
      path: v.optional(v.pipe(v.string(), v.startsWith('/')), '/'),
      scheme: v.optional(v.picklist(['HTTP', 'HTTPS']), 'HTTP'),
      host: v.optional(v.string()),
      httpHeaders: v.optional(v.array(v.strictObject({ name: v.string(), value: v.string() })), []),
    }),
  ),
  tcpSocket: v.optional(v.strictObject({ port: portReference, host: v.optional(v.string()) })),
  exec: v.optional(v.strictObject({ command: v.pipe(v.array(v.string()), v.minLength(1)) })),
  initialDelaySeconds: v.optional(seconds, 0),
  periodSeconds: v.optional(positive, 10),
  timeoutSeconds: v.optional(positive, 1),
  successThreshold: v.optional(positive, 1),
  failureThreshold: v.optional(positive, 3),
  terminationGracePeriodSeconds: ignored,
});

const capability = v.pipe(
  v.string(),
  v.regex(/^(CAP_)?[A-Z_]+$|^ALL$/, 'expected a name such as NET_RAW, or ALL'),
);

const containerSecurity = v.strictObject({
  runAsUser: v.optional(userId),
  runAsGroup: v.optional(userId),
  runAsNonRoot: v.optional(v.boolean()),
  privileged: v.optional(v.boolean()),
  allowPrivilegeEscalation: v.optional(v.boolean()),
  readOnlyRootFilesystem: v.optional(v.boolean()),
  capabilities: v.optional(
    v.strictObject({ add: v.optional(v.array(capability), []), drop: v.optional(v.array(capability), []) }),
  ),
  seccompProfile: ignored,
  procMount: ignored,
});

const podSecurity = v.strictObject({
  runAsUser: v.optional(userId),
  runAsGroup: v.optional(userId),
  runAsNonRoot: v.optional(v.boolean()),
  fsGroup: v.optional(userId),
  supplementalGroups: v.optional(v.array(userId), []),
  seccompProfile: ignored,
  fsGroupChangePolicy: ignored,
});

const FIELD_PATHS = [
  'metadata.name',
  'metadata.namespace',
  'metadata.uid',
  'spec.nodeName',
  'spec.serviceAccountName',
  'status.hostIP',
  'status.podIP',
  'status.podIPs',
] as const;

const envVar = v.pipe(
  v.strictObject({
    name: v.pipe(v.string(), v.regex(/^[A-Za-z_][A-Za-z0-9_.-]*$/, 'expected the name of a variable')),
    value: v.optional(v.string()),
    valueFrom: v.optional(
      v.strictObject({
        fieldRef: v.strictObject({
          apiVersion: ignored,
          fieldPath: v.union([
            v.picklist(FIELD_PATHS),
            v.pipe(v.string(), v.regex(/^metadata\.(labels|annotations)\['[^']+'\]$/)),
          ]),
        }),
      }),
    ),
  }),
  v.check(
    (item) => item.value === undefined || item.valueFrom === undefined,
    'give value or valueFrom, not both',
  ),
);

export const containerSchema = v.strictObject({
  name: label,
  image: v.optional(v.string(), 'local'),
  command: v.pipe(
    v.array(v.string()),
    v.minLength(1, 'a local mesh runs no images; name the program of this machine that is to run'),
  ),
  args: v.optional(v.array(v.string()), []),
  workingDir: v.optional(absolutePath),
  env: v.optional(v.array(envVar), []),
  ports: v.optional(
    v.array(
      v.strictObject({
        name: v.optional(label),
        containerPort: portNumber,
        protocol: v.optional(v.picklist(['TCP', 'UDP']), 'TCP'),
      }),
    ),
    [],
  ),
  livenessProbe: v.optional(probeSchema),
  readinessProbe: v.optional(probeSchema),
  startupProbe: v.optional(probeSchema),
  securityContext: v.optional(containerSecurity, {}),
  volumeMounts: v.optional(
    v.array(
      v.strictObject({ name: label, mountPath: absolutePath, readOnly: v.optional(v.boolean(), false) }),
    ),
    [],
  ),
  imagePullPolicy: ignored,
  resources: ignored,
  terminationMessagePath: ignored,
  terminationMessagePolicy: ignored,
});

const volume = v.pipe(
  v.strictObject({
    name: label,
    emptyDir: v.optional(v.nullable(v.strictObject({ medium: ignored, sizeLimit: ignored }))),
    projected: v.optional(
      v.strictObject({
        defaultMode: ignored,
        sources: v.array(
          v.strictObject({
            serviceAccountToken: v.strictObject({
              audience: v.optional(v.string()),
              expirationSeconds: v.optional(v.pipe(v.number(), v.integer(), v.minValue(60)), 3600),
              path: v.pipe(v.string(), v.regex(/^[A-Za-z0-9._-]+$/, 'expected a file name')),
            }),
          }),
        ),
      }),
    ),
  }),
  v.check(
    (item) => (item.emptyDir === undefined) !== (item.projected === undefined),
    'expected one of emptyDir and projected',
  ),
);

/** A check that no two items have the same `keyOf`. */
const distinct = <T>(what: string, items: (input: T) => readonly string[]) => {
  const twice = (input: T): string | undefined =>
    items(input).find((item, index, all) => all.indexOf(item) !== index);
  return v.check<T, (issue: v.CheckIssue<T>) => string>(
    (input) => twice(input) === undefined,
    (issue) => `the ${what} ${twice(issue.input)} is there twice; remove or rename one`,
  );
};

const podSpecFields = v.strictObject({
  containers: v.pipe(v.array(containerSchema), v.minLength(1, 'a pod needs a container')),
  initContainers: v.optional(v.array(containerSchema), []),
  volumes: v.optional(v.array(volume), []),
  nodeName: v.optional(v.string()),
  nodeSelector: v.optional(v.strictObject({ 'kubernetes.io/hostname': v.optional(v.string()) }), {}),
  serviceAccountName: v.optional(name, 'default'),
  automountServiceAccountToken: v.optional(v.boolean(), true),
  hostNetwork: v.optional(v.boolean(), false),
  hostname: v.optional(label),
  subdomain: v.optional(label),
  restartPolicy: v.optional(v.picklist(['Always', 'OnFailure', 'Never']), 'Always'),
  terminationGracePeriodSeconds: v.optional(seconds, 30),
  securityContext: v.optional(podSecurity, {}),
  dnsPolicy: ignored,
  enableServiceLinks: ignored,
  schedulerName: ignored,
  tolerations: ignored,
  affinity: ignored,
  topologySpreadConstraints: ignored,
  priorityClassName: ignored,
  runtimeClassName: v.optional(v.string()),
});

type PodSpecFields = v.InferOutput<typeof podSpecFields>;
const namesOf = (items: readonly { readonly name: string }[]): string[] => items.map((item) => item.name);
const missingVolume = ({ containers, initContainers, volumes }: PodSpecFields): string | undefined =>
  [...initContainers, ...containers]
    .flatMap((container) => namesOf(container.volumeMounts))
    .find((mounted) => !namesOf(volumes).includes(mounted));

export const podSpecSchema = v.pipe(
  podSpecFields,
  distinct<PodSpecFields>('container', (spec) => namesOf([...spec.initContainers, ...spec.containers])),
  distinct<PodSpecFields>('volume', (spec) => namesOf(spec.volumes)),
  v.check(
    (spec) => missingVolume(spec) === undefined,
    (issue) => `the volume ${missingVolume(issue.input)} is mounted but not there; add it to volumes`,
  ),
);

const selector = v.record(v.string(), v.string());

const serviceSpecFields = v.strictObject({
  type: v.optional(v.picklist(['ClusterIP']), 'ClusterIP'),
  clusterIP: v.optional(v.string()),
  clusterIPs: v.optional(v.array(v.string())),
  ipFamilies: v.optional(v.array(v.picklist(['IPv4', 'IPv6']))),
  ipFamilyPolicy: ignored,
  selector: v.optional(selector),
  ports: v.optional(
    v.array(
      v.strictObject({
        name: v.optional(label),
        port: portNumber,
        protocol: v.optional(v.picklist(['TCP', 'UDP']), 'TCP'),
        targetPort: v.optional(portReference),
        appProtocol: v.optional(v.string()),
      }),
    ),
    [],
  ),
  publishNotReadyAddresses: v.optional(v.boolean(), false),
  internalTrafficPolicy: v.optional(v.picklist(['Cluster', 'Local'])),
  sessionAffinity: v.optional(v.picklist(['None'])),
  trafficDistribution: v.optional(v.picklist(['PreferClose', 'PreferSameZone'])),
});

type ServiceSpecFields = v.InferOutput<typeof serviceSpecFields>;

export const serviceSpecSchema = v.pipe(
  serviceSpecFields,
  distinct<ServiceSpecFields>('port', (spec) => spec.ports.map((port) => `${port.port}/${port.protocol}`)),
  distinct<ServiceSpecFields>('port', (spec) => spec.ports.flatMap((port) => port.name ?? [])),
);

const deploymentSpec = v.pipe(
  v.strictObject({
    replicas: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(500)), 1),
    selector: v.strictObject({ matchLabels: selector }),
    template: v.strictObject({ metadata: templateMetadata, spec: podSpecSchema }),
    strategy: ignored,
    minReadySeconds: ignored,
    revisionHistoryLimit: ignored,
    progressDeadlineSeconds: ignored,
  }),
  v.check(
    (spec) =>
      Object.entries(spec.selector.matchLabels).every(
        ([key, value]) => spec.template.metadata.labels[key] === value,
      ),
    'the template must carry the labels of selector.matchLabels',
  ),
);

const podManifest = v.strictObject({
  apiVersion: v.literal('v1'),
  kind: v.literal('Pod'),
  metadata: namespacedMetadata,
  spec: podSpecSchema,
});

const namespaceManifest = v.strictObject({
  apiVersion: v.literal('v1'),
  kind: v.literal('Namespace'),
  metadata: namespaceMetadata,
  spec: ignored,
});

const serviceAccountManifest = v.strictObject({
  apiVersion: v.literal('v1'),
  kind: v.literal('ServiceAccount'),
  metadata: namespacedMetadata,
  automountServiceAccountToken: ignored,
});

const deploymentManifest = v.strictObject({
  apiVersion: v.literal('apps/v1'),
  kind: v.literal('Deployment'),
  metadata: namespacedMetadata,
  spec: deploymentSpec,
});

const serviceManifest = v.strictObject({
  apiVersion: v.literal('v1'),
  kind: v.literal('Service'),
  metadata: serviceMetadata,
  spec: serviceSpecSchema,
});

/** What else is wrong with a route's spec is told by manifests.ts. */
const routeSpec = v.record(v.string(), v.unknown());

export const httpRouteManifest = v.strictObject({
  apiVersion: v.picklist([
    'gateway.networking.k8s.io/v1',
    'gateway.networking.k8s.io/v1beta1',
    'policy.linkerd.io/v1beta3',
  ]),
  kind: v.literal('HTTPRoute'),
  metadata: namespacedMetadata,
  spec: routeSpec,
  status: ignored,
});

export const grpcRouteManifest = v.strictObject({
  apiVersion: v.literal('gateway.networking.k8s.io/v1'),
  kind: v.literal('GRPCRoute'),
  metadata: namespacedMetadata,
  spec: routeSpec,
  status: ignored,
});

export const manifestSchemas = {
  Namespace: namespaceManifest,
  ServiceAccount: serviceAccountManifest,
  Pod: podManifest,
  Deployment: deploymentManifest,
  Service: serviceManifest,
  HTTPRoute: httpRouteManifest,
  GRPCRoute: grpcRouteManifest,
} as const;

export type ManifestKind = keyof typeof manifestSchemas;

export type Manifest = {
  [Kind in ManifestKind]: v.InferOutput<(typeof manifestSchemas)[Kind]>;
}[ManifestKind];
