// SPDX-License-Identifier: Apache-2.0
// Turns the JSON of a Kubernetes object into the model, or says which field is wrong. Fields that the mesh does
// not read pass unseen; known-fields.ts checks for unknown ones where a person wrote the manifest.

import { createHash } from 'node:crypto';
import * as v from 'valibot';
import { canonicalIp } from '#lib/core/addresses.ts';
import {
  type AnyResource,
  clusterScopedKinds,
  type Container,
  type ContainerProbe,
  type Kind,
} from './model.ts';
import { externalWorkloadSpec, externalWorkloadStatus, readyOf } from './external-workload-schema.ts';
import { grpcRouteSpec, httpRouteSpec } from './route-schema.ts';
import { listOf, portNumber } from './schema-parts.ts';
import { serviceProfileSpec } from './service-profile-schema.ts';
import { PROXY_CONTAINER, proxyPortsOf } from './sidecar.ts';

const text = v.nullish(v.string('expected text'), '');
const flag = v.nullish(v.boolean('expected true or false'), false);
const portReference = v.union(
  [portNumber, v.pipe(v.string(), v.nonEmpty())],
  'expected a port number or the name of a port',
);
const texts = v.nullish(v.record(v.string(), v.string('expected text (quote numbers and true/false)')), {});

const dnsName = (what: string) =>
  v.pipe(
    v.string('expected text'),
    v.maxLength(253, 'longer than 253 characters'),
    v.regex(
      /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/,
      `${what} may hold lower-case letters, digits, "-" and ".", and begins and ends with a letter or digit`,
    ),
  );

const timestamp = v.nullish(v.union([v.string(), v.date()], 'expected a time'), '');

const metadata = v.looseObject(
  {
    name: dnsName('a name'),
    namespace: v.nullish(dnsName('a namespace')),
    uid: text,
    labels: texts,
    annotations: texts,
    creationTimestamp: timestamp,
    deletionTimestamp: timestamp,
    ownerReferences: listOf(
      v.object({
        kind: v.string('expected text'),
        name: v.string('expected text'),
        uid: text,
        controller: flag,
      }),
    ),
  },
  'expected metadata with a name',
);

const probe = v.nullish(
  v.looseObject({
    httpGet: v.nullish(
      v.looseObject({
        port: portReference,
        path: v.nullish(v.string(), '/'),
        scheme: v.nullish(v.string(), 'HTTP'),
      }),
    ),
    grpc: v.nullish(v.looseObject({ port: portNumber })),
    tcpSocket: v.nullish(v.looseObject({ port: portReference })),
  }),
);

const container = v.looseObject(
  {
    name: dnsName("a container's name"),
    image: text,
    ports: listOf(
      v.looseObject({
        name: text,
        containerPort: portNumber,
        hostPort: v.nullish(v.number('expected a port number'), 0),
        protocol: v.nullish(v.string(), 'TCP'),
      }),
    ),
    livenessProbe: probe,
    readinessProbe: probe,
    startupProbe: probe,
  },
  'expected a container',
);

const podSpec = v.looseObject(
  {
    nodeName: text,
    serviceAccountName: v.nullish(v.string('expected text'), 'default'),
    hostNetwork: flag,
    hostname: text,
    subdomain: text,
    runtimeClassName: text,
    containers: v.pipe(
      v.array(container, 'expected a list of containers'),
      v.minLength(1, 'a pod needs a container'),
    ),
    initContainers: listOf(container),
  },
  'expected a pod spec',
);

const pod = v.looseObject({
  metadata,
  spec: podSpec,
  status: v.nullish(
    v.looseObject({
      phase: v.nullish(v.string(), 'Pending'),
      podIP: v.nullish(v.string()),
      podIPs: listOf(v.looseObject({ ip: v.string('expected an address') })),
      hostIP: v.nullish(v.string()),
      hostIPs: listOf(v.looseObject({ ip: v.string('expected an address') })),
      conditions: listOf(
        v.looseObject({
          type: v.string(),
          status: v.string('expected "True", "False" or "Unknown" (quoted)'),
          reason: text,
          message: text,
          observedGeneration: v.nullish(v.number(), 0),
        }),
      ),
    }),
  ),
});

const service = v.looseObject({
  metadata,
  spec: v.looseObject(
    {
      type: v.nullish(
        v.picklist(
          ['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName'],
          'expected ClusterIP, NodePort, LoadBalancer or ExternalName',
        ),
        'ClusterIP',
      ),
      clusterIP: v.nullish(v.string()),
      clusterIPs: listOf(v.string()),
      selector: v.nullish(v.record(v.string(), v.string('expected text (quote numbers and true/false)'))),
      ports: listOf(
        v.looseObject({
          name: text,
          port: portNumber,
          protocol: v.nullish(v.picklist(['TCP', 'UDP', 'SCTP'], 'expected TCP, UDP or SCTP'), 'TCP'),
          targetPort: v.nullish(portReference),
          appProtocol: text,
        }),
      ),
      publishNotReadyAddresses: flag,
      internalTrafficPolicy: v.nullish(v.string(), 'Cluster'),
    },
    'expected a service spec',
  ),
});

const endpointSlice = v.looseObject({
  metadata,
  addressType: v.nullish(v.string('expected text'), 'IPv4'),
  ports: listOf(
    v.looseObject({ name: text, port: v.nullish(portNumber), protocol: v.nullish(v.string(), 'TCP') }),
  ),
  endpoints: listOf(
    v.looseObject({
      addresses: v.array(v.string('expected an address'), 'expected a list of addresses'),
      // Not said means ready.
      conditions: v.nullish(v.looseObject({ ready: v.nullish(v.boolean(), true) })),
      hostname: text,
      nodeName: text,
      zone: text,
      hints: v.nullish(
        v.looseObject({ forZones: v.nullish(v.array(v.looseObject({ name: v.string('expected text') }))) }),
      ),
    }),
  ),
});

const node = v.looseObject({
  metadata,
  spec: v.nullish(
    v.looseObject({
      taints: listOf(v.looseObject({ key: v.string(), effect: v.nullish(v.string(), '') })),
    }),
  ),
  status: v.nullish(
    v.looseObject({ addresses: listOf(v.looseObject({ type: v.string(), address: v.string() })) }),
  ),
});

const deployment = v.looseObject({
  metadata,
  spec: v.looseObject(
    {
      replicas: v.nullish(
        v.pipe(
          v.number('expected a number'),
          v.integer('expected a whole number'),
          v.minValue(0, 'expected 0 or more'),
        ),
        1,
      ),
      selector: v.looseObject({ matchLabels: texts }, 'expected a selector'),
      template: v.looseObject(
        {
          // A template's metadata has no name of its own.
          metadata: v.nullish(v.looseObject({ labels: texts, annotations: texts })),
          spec: podSpec,
        },
        'expected a pod template',
      ),
    },
    'expected a deployment spec',
  ),
});

const bare = v.looseObject({ metadata });

const httpRoute = v.looseObject({ metadata, spec: httpRouteSpec });
const grpcRoute = v.looseObject({ metadata, spec: grpcRouteSpec });
const serviceProfile = v.looseObject({ metadata, spec: serviceProfileSpec });
const externalWorkload = v.looseObject({
  metadata,
  spec: externalWorkloadSpec,
  status: externalWorkloadStatus,
});

/** By kind, as it is written in manifests. */
export const apiVersions: Readonly<Record<string, readonly string[]>> = {
  Namespace: ['v1'],
  Node: ['v1'],
  ServiceAccount: ['v1'],
  Pod: ['v1'],
  Service: ['v1'],
  Deployment: ['apps/v1'],
  ReplicaSet: ['apps/v1'],
  Job: ['batch/v1'],
  EndpointSlice: ['discovery.k8s.io/v1'],
  HTTPRoute: [
    'gateway.networking.k8s.io/v1',
    'gateway.networking.k8s.io/v1beta1',
    'policy.linkerd.io/v1beta3',
  ],
  GRPCRoute: ['gateway.networking.k8s.io/v1'],
  ServiceProfile: ['linkerd.io/v1alpha2', 'linkerd.io/v1alpha1'],
  ExternalWorkload: ['workload.linkerd.io/v1beta1', 'workload.linkerd.io/v1alpha1'],
};

/** What an object is in the model; undefined: its kind or version is not read. */
export function kindOf(apiVersion: string, kind: string): Kind | undefined {
  const known = Object.hasOwn(apiVersions, kind) ? apiVersions[kind] : undefined;
  if (known?.includes(apiVersion) !== true) return undefined;
  return kind === 'HTTPRoute' && apiVersion.startsWith('policy.linkerd.io/')
    ? 'PolicyHTTPRoute'
    : (kind as Kind);
}

export interface FieldProblem {
  /** `spec.ports[0].port`; empty for the object as a whole. */
  readonly path: string;
  readonly message: string;
}

export type ParsedResource =
  | { readonly ok: true; readonly resource: AnyResource }
  | { readonly ok: false; readonly problems: readonly FieldProblem[] };

/** `raw` is the object of a known kind, with `kind` and `apiVersion` checked before. */
export function parseResource(kind: Kind, raw: unknown, cluster: string): ParsedResource {
  const problems: FieldProblem[] = [];
  const resource = build(kind, raw, cluster, problems);
  return resource !== undefined && problems.length === 0 ? { ok: true, resource } : { ok: false, problems };
}

function build(kind: Kind, raw: unknown, cluster: string, problems: FieldProblem[]): AnyResource | undefined {
  switch (kind) {
    case 'Namespace':
    case 'ServiceAccount':
    case 'ReplicaSet':
    case 'Job': {
      const value = check(bare, raw, problems);
      return value && { kind, cluster, metadata: meta(kind, value.metadata) };
    }
    case 'Node': {
      const value = check(node, raw, problems);
      if (value === undefined) return undefined;
      const addresses = (value.status?.addresses ?? []).map(({ type, address }) => ({ type, address }));
      const taints = (value.spec?.taints ?? []).map(({ key, effect }) => ({ key, effect: effect ?? '' }));
      const spec = { taints };
      return { kind, cluster, metadata: meta(kind, value.metadata), spec, status: { addresses } };
    }
    case 'EndpointSlice': {
      const value = check(endpointSlice, raw, problems);
      if (value === undefined) return undefined;
      // Slices of names are for services that are no business of the mesh.
      const given = value.addressType === 'FQDN' ? [] : value.endpoints;
      const endpoints = given.map(({ addresses, conditions, hostname, nodeName, zone, hints }, index) => ({
        addresses: addressesOf(addresses, `endpoints[${index}].addresses`, problems),
        ready: conditions?.ready ?? true,
        hostname,
        nodeName,
        zone,
        forZones: hints?.forZones?.map(({ name }) => name),
      }));
      const ports = value.ports.flatMap(({ name, port, protocol }) =>
        port === null || port === undefined ? [] : [{ name, port, protocol }],
      );
      return { kind, cluster, metadata: meta(kind, value.metadata), ports, endpoints };
    }
    case 'Deployment': {
      const value = check(deployment, raw, problems);
      return (
        value && {
          kind,
          cluster,
          metadata: meta(kind, value.metadata),
          spec: { replicas: value.spec.replicas },
        }
      );
    }
    case 'Pod': {
      const value = check(pod, raw, problems);
      if (value === undefined) return undefined;
      return {
        kind,
        cluster,
        metadata: meta(kind, value.metadata),
        spec: {
          nodeName: value.spec.nodeName,
          serviceAccountName:
            value.spec.serviceAccountName === '' ? 'default' : value.spec.serviceAccountName,
          hostNetwork: value.spec.hostNetwork,
          hostname: value.spec.hostname,
          subdomain: value.spec.subdomain,
          runtimeClassName: value.spec.runtimeClassName,
          containers: value.spec.containers.map(containerOf),
          initContainers: value.spec.initContainers.map(containerOf),
        },
        status: {
          phase: value.status?.phase ?? 'Pending',
          podIPs: addressesOf(allOf(value.status?.podIPs, value.status?.podIP), 'status.podIPs', problems),
          hostIPs: addressesOf(
            allOf(value.status?.hostIPs, value.status?.hostIP),
            'status.hostIPs',
            problems,
          ),
          conditions: (value.status?.conditions ?? []).map((condition) => ({
            type: condition.type,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            observedGeneration: condition.observedGeneration,
          })),
        },
      };
    }
    case 'HTTPRoute':
    case 'PolicyHTTPRoute': {
      const value = check(httpRoute, raw, problems);
      return value && { kind, cluster, metadata: meta(kind, value.metadata), spec: value.spec };
    }
    case 'GRPCRoute': {
      const value = check(grpcRoute, raw, problems);
      return value && { kind, cluster, metadata: meta(kind, value.metadata), spec: value.spec };
    }
    case 'ServiceProfile': {
      const value = check(serviceProfile, raw, problems);
      return value && { kind, cluster, metadata: meta(kind, value.metadata), spec: value.spec };
    }
    case 'ExternalWorkload': {
      const value = check(externalWorkload, raw, problems);
      if (value === undefined) return undefined;
      const { meshTls, ports, workloadIPs } = value.spec;
      const ips = workloadIPs.map(({ ip }) => ip);
      const spec = { meshTls, ports, workloadIps: addressesOf(ips, 'spec.workloadIPs', problems) };
      const status = { ready: readyOf(value.status) };
      return { kind, cluster, metadata: meta(kind, value.metadata), spec, status };
    }
    case 'Service': {
      const value = check(service, raw, problems);
      if (value === undefined) return undefined;
      const { spec } = value;
      const given = spec.clusterIPs.length > 0 ? spec.clusterIPs : [spec.clusterIP ?? ''];
      return {
        kind,
        cluster,
        metadata: meta(kind, value.metadata),
        spec: {
          type: spec.type,
          clusterIPs: addressesOf(
            given.filter((ip) => ip !== '' && ip !== 'None'),
            'spec.clusterIPs',
            problems,
          ),
          selector: spec.selector ?? undefined,
          ports: spec.ports.map((port) => ({
            name: port.name,
            port: port.port,
            protocol: port.protocol,
            targetPort: port.targetPort ?? port.port,
            appProtocol: port.appProtocol,
          })),
          publishNotReadyAddresses: spec.publishNotReadyAddresses,
          internalTrafficPolicy: spec.internalTrafficPolicy,
        },
      };
    }
  }
}

/** The list, or what stands alone beside it on older clusters. */
function allOf(list: readonly { readonly ip: string }[] | undefined, single: string | null | undefined) {
  const ips = list?.map(({ ip }) => ip) ?? [];
  return ips.length > 0 || (single ?? '') === '' ? ips : [single ?? ''];
}

type RawContainer = v.InferOutput<typeof container>;

function containerOf(raw: RawContainer): Container {
  const liveness = probeOf(raw.livenessProbe);
  const readiness = probeOf(raw.readinessProbe);
  const startup = probeOf(raw.startupProbe);
  return {
    name: raw.name,
    image: raw.image,
    ports: raw.ports.map(({ name, containerPort, hostPort, protocol }) => ({
      name,
      containerPort,
      hostPort,
      protocol,
    })),
    ...(liveness && { livenessProbe: liveness }),
    ...(readiness && { readinessProbe: readiness }),
    ...(startup && { startupProbe: startup }),
    ...(raw.name === PROXY_CONTAINER && { proxyPorts: proxyPortsOf(raw['env']) }),
  };
}

function probeOf(raw: RawContainer['livenessProbe']): ContainerProbe | undefined {
  if (raw === null || raw === undefined) return undefined;
  const { httpGet, grpc, tcpSocket } = raw;
  return {
    ...(httpGet && { httpGet: { port: httpGet.port, path: httpGet.path, scheme: httpGet.scheme } }),
    ...(grpc && { grpc: { port: grpc.port } }),
    ...(tcpSocket && { tcpSocket: { port: tcpSocket.port } }),
  };
}

function meta(kind: Kind, raw: v.InferOutput<typeof metadata>) {
  const namespace = clusterScopedKinds.has(kind) ? '' : (raw.namespace ?? 'default');
  return {
    name: raw.name,
    namespace,
    uid: raw.uid === '' ? derivedUid(kind, namespace, raw.name) : raw.uid,
    labels: raw.labels,
    annotations: raw.annotations,
    creationTimestamp: timeText(raw.creationTimestamp),
    deletionTimestamp: timeText(raw.deletionTimestamp),
    ownerReferences: raw.ownerReferences,
  };
}

const timeText = (value: string | Date): string => (value instanceof Date ? value.toISOString() : value);

/** Manifests written by people have no uid: the same object always gets the same one. */
export function derivedUid(kind: string, namespace: string, name: string): string {
  const hex = createHash('sha256').update(`${kind}/${namespace}/${name}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function addressesOf(addresses: readonly string[], path: string, problems: FieldProblem[]): string[] {
  return addresses.flatMap((address) => {
    const canonical = canonicalIp(address);
    if (canonical === undefined) problems.push({ path, message: `"${address}" is no IP address` });
    return canonical === undefined ? [] : [canonical];
  });
}

function check<S extends v.GenericSchema>(
  schema: S,
  raw: unknown,
  problems: FieldProblem[],
): v.InferOutput<S> | undefined {
  const result = v.safeParse(schema, raw);
  if (result.success) return result.output;
  for (const issue of result.issues) {
    const path = (v.getDotPath(issue) ?? '').replaceAll(/\.(\d+)(?=\.|$)/g, '[$1]');
    // A missing key is told by valibot as a wrong type of undefined.
    const missing = issue.received === 'undefined';
    problems.push({ path, message: missing ? 'is missing' : issue.message });
  }
  return undefined;
}
