// SPDX-License-Identifier: Apache-2.0
// The Kubernetes resources that the mesh reads, in Kubernetes' shape, reduced to the fields that are used; lists
// and maps are never absent. Each object carries its cluster. Parsing is in resource-schema.ts.

import type { GrpcRouteSpec, HttpRouteSpec } from './route-schema.ts';
import type { ServiceProfileSpec } from './service-profile-schema.ts';

export interface OwnerReference {
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller: boolean;
}

export interface ObjectMeta {
  readonly name: string;
  /** Empty for cluster-scoped kinds. */
  readonly namespace: string;
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** RFC 3339, or empty. */
  readonly creationTimestamp: string;
  /** RFC 3339 once deletion has begun, else empty. */
  readonly deletionTimestamp: string;
  readonly ownerReferences: readonly OwnerReference[];
}

interface Resource<K extends string> {
  readonly kind: K;
  readonly cluster: string;
  readonly metadata: ObjectMeta;
}

export type Namespace = Resource<'Namespace'>;

export type ServiceAccount = Resource<'ServiceAccount'>;

export interface Taint {
  readonly key: string;
  readonly effect: string;
}

export interface Node extends Resource<'Node'> {
  readonly spec: { readonly taints: readonly Taint[] };
  readonly status: { readonly addresses: readonly { readonly type: string; readonly address: string }[] };
}

export interface ContainerPort {
  readonly name: string;
  readonly containerPort: number;
  /** The port of the node that leads here; 0: none does. */
  readonly hostPort: number;
  readonly protocol: string;
}

/** Where Linkerd's proxy listens in its pod. */
export interface ProxyPorts {
  readonly inbound: number;
  readonly control: number;
  readonly admin: number;
}

/** A number, or the name of a container port. */
export type PortReference = number | string;

export interface ContainerProbe {
  readonly httpGet?: { readonly port: PortReference; readonly path: string; readonly scheme: string };
  readonly grpc?: { readonly port: number };
  readonly tcpSocket?: { readonly port: PortReference };
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly ports: readonly ContainerPort[];
  readonly livenessProbe?: ContainerProbe;
  readonly readinessProbe?: ContainerProbe;
  readonly startupProbe?: ContainerProbe;
  /** Of a container that is Linkerd's proxy. */
  readonly proxyPorts?: ProxyPorts;
}

export interface PodSpec {
  readonly nodeName: string;
  readonly serviceAccountName: string;
  readonly hostNetwork: boolean;
  readonly hostname: string;
  readonly subdomain: string;
  readonly runtimeClassName: string;
  readonly containers: readonly Container[];
  readonly initContainers: readonly Container[];
}

export interface PodCondition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  /** Of our own condition: the workload generation that it is about. 0 where there is none. */
  readonly observedGeneration: number;
}

export interface Pod extends Resource<'Pod'> {
  readonly spec: PodSpec;
  readonly status: {
    readonly phase: string;
    /** Canonical addresses; one per family. */
    readonly podIPs: readonly string[];
    /** Canonical addresses of its node. */
    readonly hostIPs: readonly string[];
    readonly conditions: readonly PodCondition[];
  };
}

export interface ServicePort {
  readonly name: string;
  readonly port: number;
  readonly protocol: string;
  readonly targetPort: PortReference;
  readonly appProtocol: string;
}

export interface Service extends Resource<'Service'> {
  readonly spec: {
    readonly type: string;
    /** Canonical addresses; empty for headless and ExternalName services. */
    readonly clusterIPs: readonly string[];
    /** Undefined: endpoints come from elsewhere, not from pods. */
    readonly selector: Readonly<Record<string, string>> | undefined;
    readonly ports: readonly ServicePort[];
    readonly publishNotReadyAddresses: boolean;
    readonly internalTrafficPolicy: string;
  };
}

export interface SliceEndpoint {
  /** Canonical. */
  readonly addresses: readonly string[];
  /** Whether it takes new connections: one that is terminating does not. */
  readonly ready: boolean;
  readonly hostname: string;
  readonly nodeName: string;
  /** Empty: nothing is said. */
  readonly zone: string;
  /** Zones whose clients shall use it; undefined: nothing is said. */
  readonly forZones: readonly string[] | undefined;
}

/**
 * Endpoints of services with a selector the mesh sees from the pods, sooner than from here; what it reads of them here
 * are the zones. Those of services without a selector stand only here.
 */
export interface EndpointSlice extends Resource<'EndpointSlice'> {
  readonly ports: readonly { readonly name: string; readonly port: number; readonly protocol: string }[];
  readonly endpoints: readonly SliceEndpoint[];
}

/** Names the Service of an EndpointSlice. */
export const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';

export interface Deployment extends Resource<'Deployment'> {
  readonly spec: { readonly replicas: number };
}

export type ReplicaSet = Resource<'ReplicaSet'>;

export type Job = Resource<'Job'>;

/** HTTPRoute of gateway.networking.k8s.io. */
export interface HttpRoute extends Resource<'HTTPRoute'> {
  readonly spec: HttpRouteSpec;
}

/** HTTPRoute of policy.linkerd.io: another resource, which may have the same name. */
export interface PolicyHttpRoute extends Resource<'PolicyHTTPRoute'> {
  readonly spec: HttpRouteSpec;
}

export interface GrpcRoute extends Resource<'GRPCRoute'> {
  readonly spec: GrpcRouteSpec;
}

/** Named after the authority that it is for; in the namespace of the service, or of clients that have their own. */
export interface ServiceProfile extends Resource<'ServiceProfile'> {
  readonly spec: ServiceProfileSpec;
}

/** A program outside the cluster, with a proxy of its own; Services select it by its labels, as they do pods. */
export interface ExternalWorkload extends Resource<'ExternalWorkload'> {
  readonly spec: {
    readonly meshTls: { readonly identity: string; readonly serverName: string };
    readonly ports: readonly { readonly name: string; readonly port: number; readonly protocol: string }[];
    /** Canonical addresses; one per family. */
    readonly workloadIps: readonly string[];
  };
  readonly status: { readonly ready: boolean };
}

export type AnyRoute = HttpRoute | PolicyHttpRoute | GrpcRoute;

export interface ResourceTypes {
  readonly Namespace: Namespace;
  readonly ServiceAccount: ServiceAccount;
  readonly Node: Node;
  readonly Deployment: Deployment;
  readonly ReplicaSet: ReplicaSet;
  readonly Job: Job;
  readonly Pod: Pod;
  readonly Service: Service;
  readonly EndpointSlice: EndpointSlice;
  readonly HTTPRoute: HttpRoute;
  readonly PolicyHTTPRoute: PolicyHttpRoute;
  readonly GRPCRoute: GrpcRoute;
  readonly ServiceProfile: ServiceProfile;
  readonly ExternalWorkload: ExternalWorkload;
}

export type Kind = keyof ResourceTypes;
export type AnyResource = ResourceTypes[Kind];

/** In the order in which changes are told: what others refer to comes first. */
export const kinds: readonly Kind[] = [
  'Namespace',
  'Node',
  'ServiceAccount',
  'Deployment',
  'ReplicaSet',
  'Job',
  'Pod',
  'Service',
  'EndpointSlice',
  'HTTPRoute',
  'PolicyHTTPRoute',
  'GRPCRoute',
  'ServiceProfile',
  'ExternalWorkload',
];

export const clusterScopedKinds: ReadonlySet<Kind> = new Set<Kind>(['Namespace', 'Node']);

/** Names an object of a known kind. */
export interface ResourceKey {
  readonly cluster: string;
  readonly namespace: string;
  readonly name: string;
}

export const keyOf = (resource: AnyResource): ResourceKey => ({
  cluster: resource.cluster,
  namespace: resource.metadata.namespace,
  name: resource.metadata.name,
});

/** `cluster/namespace/name`; names of Kubernetes contain no slash. */
export const keyText = (key: ResourceKey): string => `${key.cluster}/${key.namespace}/${key.name}`;

/** The pod condition in which the enrolment is written. */
export const ENROLLED_CONDITION = 'nodemesh.io/Enrolled';

export const podCondition = (pod: Pod, type: string): PodCondition | undefined =>
  pod.status.conditions.find((condition) => condition.type === type);

/** Ready as EndpointSlices count it: the pod's own Ready condition, and not on its way out. */
export const podReady = (pod: Pod): boolean =>
  podCondition(pod, 'Ready')?.status === 'True' && pod.metadata.deletionTimestamp === '';

export const podTerminal = (pod: Pod): boolean =>
  pod.status.phase === 'Succeeded' || pod.status.phase === 'Failed';
