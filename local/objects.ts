// SPDX-License-Identifier: Apache-2.0
// The Kubernetes objects that a local mesh runs, in Kubernetes' shape. What a manifest may contain is
// manifest-schema.ts; what the mesh's services read of them is lib/registry.

import type { InferOutput } from 'valibot';
import type {
  containerSchema,
  grpcRouteManifest,
  httpRouteManifest,
  podSpecSchema,
  probeSchema,
  serviceSpecSchema,
} from './manifest-schema.ts';

export type PodSpec = InferOutput<typeof podSpecSchema>;
export type ContainerSpec = InferOutput<typeof containerSchema>;
export type ProbeSpec = InferOutput<typeof probeSchema>;
export type ServiceSpec = InferOutput<typeof serviceSpecSchema>;

export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller: boolean;
}

export interface ObjectMeta {
  readonly name: string;
  /** Absent for cluster-scoped kinds. */
  readonly namespace?: string;
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly creationTimestamp: string;
  readonly deletionTimestamp?: string;
  readonly ownerReferences?: readonly OwnerReference[];
}

interface LocalObject<Kind extends string, ApiVersion extends string> {
  readonly apiVersion: ApiVersion;
  readonly kind: Kind;
  readonly metadata: ObjectMeta;
}

export type NamespaceObject = LocalObject<'Namespace', 'v1'>;
export type ServiceAccountObject = LocalObject<'ServiceAccount', 'v1'>;

export interface NodeObject extends LocalObject<'Node', 'v1'> {
  readonly spec: { readonly podCIDR: string; readonly podCIDRs: readonly string[] };
  readonly status: {
    readonly addresses: readonly { readonly type: string; readonly address: string }[];
    readonly conditions: readonly PodCondition[];
  };
}

export interface PodTemplate {
  readonly metadata: {
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations: Readonly<Record<string, string>>;
  };
  readonly spec: PodSpec;
}

export interface DeploymentObject extends LocalObject<'Deployment', 'apps/v1'> {
  readonly spec: {
    readonly replicas: number;
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    readonly template: PodTemplate;
  };
  readonly status: {
    readonly replicas: number;
    readonly updatedReplicas: number;
    readonly readyReplicas: number;
    readonly availableReplicas: number;
  };
}

export interface ReplicaSetObject extends LocalObject<'ReplicaSet', 'apps/v1'> {
  readonly spec: {
    readonly replicas: number;
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
  };
}

export interface ServiceObject extends LocalObject<'Service', 'v1'> {
  readonly spec: ServiceSpec;
}

export interface EndpointSliceObject extends LocalObject<'EndpointSlice', 'discovery.k8s.io/v1'> {
  readonly addressType: 'IPv4' | 'IPv6';
  readonly endpoints: readonly {
    readonly addresses: readonly string[];
    readonly nodeName: string;
    readonly zone: string;
    readonly hints: { readonly forZones: readonly { readonly name: string }[] };
  }[];
}

/** Its spec is checked by lib/registry, which reads it. */
export interface HttpRouteObject
  extends LocalObject<'HTTPRoute', InferOutput<typeof httpRouteManifest>['apiVersion']> {
  readonly spec: Readonly<Record<string, unknown>>;
}

export interface GrpcRouteObject
  extends LocalObject<'GRPCRoute', InferOutput<typeof grpcRouteManifest>['apiVersion']> {
  readonly spec: Readonly<Record<string, unknown>>;
}

export interface PodCondition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason?: string;
  readonly message?: string;
  readonly lastTransitionTime: string;
}

export type ContainerState =
  | { readonly waiting: { readonly reason: string; readonly message?: string } }
  | { readonly running: { readonly startedAt: string } }
  | {
      readonly terminated: {
        readonly exitCode: number;
        readonly reason: string;
        readonly startedAt: string;
        readonly finishedAt: string;
      };
    };

export interface ContainerStatus {
  readonly name: string;
  readonly image: string;
  readonly ready: boolean;
  readonly started: boolean;
  readonly restartCount: number;
  readonly state: ContainerState;
  readonly lastState?: ContainerState;
}

export type PodPhase = 'Pending' | 'Running' | 'Succeeded' | 'Failed';

export interface PodStatus {
  readonly phase: PodPhase;
  readonly hostIP?: string;
  readonly hostIPs?: readonly { readonly ip: string }[];
  readonly podIP?: string;
  readonly podIPs?: readonly { readonly ip: string }[];
  readonly startTime?: string;
  readonly message?: string;
  readonly conditions: readonly PodCondition[];
  readonly initContainerStatuses?: readonly ContainerStatus[];
  readonly containerStatuses?: readonly ContainerStatus[];
}

export interface PodObject extends LocalObject<'Pod', 'v1'> {
  readonly spec: PodSpec;
  readonly status: PodStatus;
}

export interface ObjectTypes {
  readonly Namespace: NamespaceObject;
  readonly ServiceAccount: ServiceAccountObject;
  readonly Node: NodeObject;
  readonly Deployment: DeploymentObject;
  readonly ReplicaSet: ReplicaSetObject;
  readonly Pod: PodObject;
  readonly Service: ServiceObject;
  readonly HTTPRoute: HttpRouteObject;
  readonly GRPCRoute: GrpcRouteObject;
  readonly EndpointSlice: EndpointSliceObject;
}

export type Kind = keyof ObjectTypes;
export type AnyObject = ObjectTypes[Kind];

export const clusterScoped = (kind: Kind): boolean => kind === 'Namespace' || kind === 'Node';

/** `pod shop/web-1`, `namespace shop`: how messages name an object. */
export const describeObject = (kind: string, namespace: string | undefined, name: string): string =>
  `${kind.toLowerCase()} ${namespace === undefined ? '' : `${namespace}/`}${name}`;

export const namespaceOf = (object: AnyObject): string => object.metadata.namespace ?? '';

export const isTerminating = (object: AnyObject): boolean => object.metadata.deletionTimestamp !== undefined;

export const podIsReady = (pod: PodObject): boolean =>
  pod.status.conditions.some((condition) => condition.type === 'Ready' && condition.status === 'True');

export const podIsFinished = (pod: PodObject): boolean =>
  pod.status.phase === 'Succeeded' || pod.status.phase === 'Failed';

/** As kubelet tells it: a pod is pending until each of its containers has begun once. */
export const phaseWith = (phase: PodPhase, containers: readonly ContainerStatus[]): PodPhase =>
  phase === 'Pending' &&
  containers.length > 0 &&
  containers.every(({ state, lastState }) => !('waiting' in state) || lastState !== undefined)
    ? 'Running'
    : phase;

export const labelsMatch = (
  selector: Readonly<Record<string, string>>,
  labels: Readonly<Record<string, string>>,
): boolean => Object.entries(selector).every(([key, value]) => labels[key] === value);
