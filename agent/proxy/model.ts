// SPDX-License-Identifier: Apache-2.0
// What crosses between the control thread and a proxy worker: plain data that structured clone carries.
// No behaviour here. Descriptors are numbers: threads of one process share them.

import type { PortRange } from '#lib/core/addresses.ts';
import type { RequestPolicy } from '#lib/core/request-policy.ts';
import type { Exposition } from '#lib/metrics/exposition.ts';
import type { TapEvent } from './tap/events.ts';
import type { TapWish } from './tap/pod-taps.ts';

export type { TapEvent, TapWish };

/** One listener of a pod's slot, as a duplicate that belongs to this worker (the worker closes it). */
export interface ListenerHandle {
  readonly direction: 'inbound' | 'outbound';
  readonly family: 4 | 6;
  readonly slot: number;
  readonly fd: number;
}

/** Who may connect: one entry of a server's authorizations (linkerd2-proxy-api inbound.Authz). */
export interface Authorization {
  /** CIDRs with exceptions; a client matches if it is in one network and in none of its exceptions. */
  readonly networks: readonly { readonly net: string; readonly except: readonly string[] }[];
  readonly authentication:
    | { readonly kind: 'unauthenticated' }
    /** TLS ended here, identity optional. */
    | { readonly kind: 'tls-unauthenticated' }
    /** An identity equal to one of `identities` or ending, label-wise, in one of `suffixes` ('' = any DNS-like one). */
    | { readonly kind: 'tls'; readonly identities: readonly string[]; readonly suffixes: readonly string[] };
  /** authz_group, authz_kind, authz_name for metrics and logs. */
  readonly labels: Readonly<Record<string, string>>;
  /** `audit`: allowed, and each permit is logged. */
  readonly audit: boolean;
}

export interface ServerPolicy {
  readonly protocol: 'detect' | 'opaque' | 'tls' | 'http1' | 'http2' | 'grpc';
  readonly detectTimeoutMs: number;
  readonly authorizations: readonly Authorization[];
  /** srv_group, srv_kind, srv_name. */
  readonly labels: Readonly<Record<string, string>>;
}

export interface WorkerPod {
  readonly cluster: string;
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly identity: string;
  readonly addresses: readonly string[];
  /** deployment, statefulset, daemonset, replicaset, k8s_job, cronjob or '' */
  readonly ownerKind: string;
  readonly ownerName: string;
  /** Descriptor of the pod's network namespace, owned by the control thread. */
  readonly netnsFd: number;
  /** The node-wide number by which kernel records (vouchers) name this pod. */
  readonly podIndex: number;
  readonly generation: number;
  /** The pod opted out: what it has open is served to its end, and HTTP clients are told to come anew. */
  readonly leaving?: boolean;
  /** When this pod's counters began, seconds since the epoch. */
  readonly startedAtSeconds: number;
  readonly opaquePorts: readonly PortRange[];
  readonly skipOutboundPorts: readonly PortRange[];
  readonly clientAddressOfProxy: boolean;
  /** Whether requests to the pod are logged, and how; absent: they are not. */
  readonly accessLog?: 'apache' | 'json' | '';
  readonly connectTimeoutOutboundMs: number;
  readonly connectTimeoutInboundMs: number;
  readonly detectTimeoutOutboundMs: number;
  readonly policies: {
    readonly byPort: readonly (readonly [number, ServerPolicy])[];
    readonly fallback: ServerPolicy;
  };
  /** Authorised by exact method, path and port, from anybody (kubelet probes carry no identity). */
  readonly probes: readonly { readonly port: number; readonly method: string; readonly path: string }[];
}

/** The certificate of one identity, with the anchors to verify peers against. PEM texts. */
export interface Certificate {
  readonly identity: string;
  readonly chainPem: string;
  readonly keyPem: string;
  readonly notAfterMs: number;
}

export interface Endpoint {
  readonly ip: string;
  readonly port: number;
  /** TLS identity that the endpoint must prove; undefined: plain text. */
  readonly identity: string | undefined;
  /** What its certificate is asked for by, where that is not the identity. */
  readonly serverName?: string;
  /** Port of the endpoint's proxy for the transport header form (4143); undefined: dial `port` itself. */
  readonly inboundPort: number | undefined;
  readonly weight: number;
  /** What its requests name, and its transport header: `name` or `name:port`. It is a gateway of another cluster. */
  readonly authorityOverride?: string;
  /** Its proxy takes HTTP/1 over HTTP/2 (the hint H2 of discovery). */
  readonly http2?: boolean;
  /** Discovery labels without the `dst_` prefix: namespace, service, deployment, pod, zone_locality, … */
  readonly labels: Readonly<Record<string, string>>;
  /** Uid of the pod if it is enrolled on this very node. */
  readonly localPodUid: string | undefined;
}

/** When an endpoint is left out for a while: after so many failures in a row, for a pause that doubles. */
export interface FailureAccrual {
  readonly maxFailures: number;
  readonly minPenaltyMs: number;
  readonly maxPenaltyMs: number;
  /** Up to this part of the pause is added at random. */
  readonly jitterRatio: number;
}

/** A resource, as labels and messages name it: a Service, a route. */
export interface ResourceReference {
  readonly group: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  /** 0: none. */
  readonly port: number;
}

export interface ValueMatch {
  readonly kind: 'exact' | 'regex';
  readonly value: string;
}

interface NamedValueMatch {
  readonly name: string;
  readonly value: ValueMatch;
}

/** `suffix`: the name without `*.`. */
export interface HostMatch {
  readonly kind: 'exact' | 'suffix';
  readonly value: string;
}

export interface HttpRouteMatch {
  /** Absent: any path. */
  readonly path?: { readonly kind: 'exact' | 'prefix' | 'regex'; readonly value: string };
  readonly fields: readonly NamedValueMatch[];
  readonly parameters: readonly NamedValueMatch[];
  readonly method?: string;
}

export interface GrpcRouteMatch {
  /** Absent: any. */
  readonly service?: string;
  readonly method?: string;
  readonly fields: readonly NamedValueMatch[];
}

export interface FieldChanges {
  readonly add: readonly (readonly [name: string, value: string])[];
  readonly set: readonly (readonly [name: string, value: string])[];
  readonly remove: readonly string[];
}

export type RouteFilter =
  | { readonly kind: 'request-fields'; readonly changes: FieldChanges }
  | { readonly kind: 'response-fields'; readonly changes: FieldChanges }
  | {
      readonly kind: 'redirect';
      readonly scheme?: string;
      readonly host?: string;
      readonly port?: number;
      readonly path?: { readonly kind: 'full' | 'prefix'; readonly value: string };
      readonly status: number;
    }
  /** Answers that share of the requests itself: an HTTP status, or that of gRPC. */
  | {
      readonly kind: 'failure';
      readonly status: number;
      readonly grpc: boolean;
      readonly message: string;
      readonly numerator: number;
      readonly denominator: number;
    };

export interface RouteBackend {
  /** `name.ns.svc.cluster.local:port`; absent: there is none, and filters answer. */
  readonly authority?: string;
  readonly weight: number;
  readonly filters: readonly RouteFilter[];
  readonly reference: ResourceReference;
}

export interface RouteRule {
  /** None: every request. */
  readonly matches: readonly (HttpRouteMatch | GrpcRouteMatch)[];
  readonly filters: readonly RouteFilter[];
  /** By weight among those that are available, or the first that is. None: nothing can be reached. */
  readonly backends: readonly RouteBackend[];
  readonly firstAvailable?: boolean;
  /** What it says stands in place of what the service says. */
  readonly policy: RequestPolicy;
}

export interface ClientRoute {
  readonly reference: ResourceReference;
  /** None: any host. */
  readonly hosts: readonly HostMatch[];
  readonly rules: readonly RouteRule[];
}

/** The routes of a service's port, the oldest first. A request that none of them matches is answered 404. */
export interface ClientRoutes {
  readonly protocol: 'http' | 'grpc';
  readonly routes: readonly ClientRoute[];
  /** What is wrong with them: nothing is forwarded. */
  readonly invalid?: string;
}

/** What is known of an original destination. */
export type Destination =
  /** Definitely no pod and no service: forwarded to the original destination in plain text. */
  | { readonly kind: 'unknown' }
  /** A pod dialled by its own address. */
  | { readonly kind: 'endpoint'; readonly opaque: boolean; readonly endpoint: Endpoint }
  /** The policy is that of the default route, for requests that no other route of the service takes. */
  | (RequestPolicy & {
      readonly kind: 'service';
      /** `name.ns.svc.cluster.local:port` */
      readonly authority: string;
      readonly opaque: boolean;
      /** False while the first answer of Get is outstanding. */
      readonly resolved: boolean;
      readonly endpoints: readonly Endpoint[];
      /** Without it no endpoint is left out for its failures. */
      readonly accrual?: FailureAccrual;
      /** Absent: everything goes to the service itself. */
      readonly routes?: ClientRoutes;
    });

/** An accepted connection on its way to another worker. */
export interface HandedConnection {
  /** Index of the worker. */
  readonly to: number;
  readonly uid: string;
  readonly fd: number;
  readonly direction: 'inbound' | 'outbound';
  /** Null: not known, to be detected. */
  readonly protocol: 'http1' | 'http2' | 'opaque' | null;
  /** What was read. */
  readonly first: Uint8Array | null;
}

export type ToWorker =
  /** Also for a pod known already: listeners are added to those that it has. */
  | { readonly type: 'pod'; readonly pod: WorkerPod; readonly listeners: readonly ListenerHandle[] }
  | { readonly type: 'pod-removed'; readonly uid: string; readonly ticket: number }
  | { readonly type: 'certificate'; readonly certificate: Certificate }
  /** No pod of this identity is left: its key goes. */
  | { readonly type: 'certificate-dropped'; readonly identity: string }
  | { readonly type: 'anchors'; readonly pem: string }
  /** Answer and later changes of a discovery that this worker asked for. */
  | { readonly type: 'destination'; readonly key: string; readonly destination: Destination }
  /** Gives up the listeners, and nothing else: another agent accepts on the same ones. `pod` brings them back. */
  | { readonly type: 'stop-accepting' }
  /** Gives up the listeners of this worker's slots, which were only lent: their owner accepts again. */
  | { readonly type: 'slots-back'; readonly owner: number }
  | { readonly type: 'drain'; readonly graceMs: number }
  /** The agent goes on after all. */
  | { readonly type: 'resume' }
  /** Asks how much the pod has open; `dismiss` ends HTTP connections on which nothing is asked. */
  | {
      readonly type: 'pod-connections';
      readonly uid: string;
      readonly ticket: number;
      readonly dismiss: boolean;
    }
  /** Answers a pod's GET /metrics that came in on this worker. */
  | { readonly type: 'pod-metrics'; readonly ticket: number; readonly text: string }
  /** Another worker accepted it; it counts as this one's. Answered by `connection-taken`. */
  | { readonly type: 'connection'; readonly connection: HandedConnection }
  /** Tells of the pod's exchanges from now on, until `tap-end`. */
  | { readonly type: 'tap'; readonly ticket: number; readonly uid: string; readonly wish: TapWish }
  | { readonly type: 'tap-end'; readonly ticket: number; readonly uid: string }
  /** The last batch of access log lines is written: there may be another. */
  | { readonly type: 'access-log-written' };

export type FromWorker =
  | { readonly type: 'ready' }
  /** Wants `key` = `<client namespace>|<ip>:<port>`; stays subscribed until `forget`. */
  | {
      readonly type: 'discover';
      readonly key: string;
      readonly namespace: string;
      readonly ip: string;
      readonly port: number;
    }
  | { readonly type: 'forget'; readonly key: string }
  /** Every descriptor of the pod that this worker held is closed. */
  | { readonly type: 'pod-gone'; readonly uid: string; readonly ticket: number }
  | { readonly type: 'pod-connections'; readonly ticket: number; readonly open: number }
  /** A new metric cell; see lib/metrics. */
  | { readonly type: 'metric'; readonly definition: unknown }
  /** The application refused although its port counts as listening; at most once a second for a pod. */
  | { readonly type: 'application-refused'; readonly uid: string }
  | {
      readonly type: 'pod-metrics-wanted';
      readonly ticket: number;
      readonly uid: string;
      readonly exposition: Exposition;
    }
  | { readonly type: 'connection'; readonly connection: HandedConnection }
  | { readonly type: 'connection-taken'; readonly fd: number }
  | { readonly type: 'tap-event'; readonly ticket: number; readonly event: TapEvent }
  /** Whole lines of the access log; each piece is written in one go. */
  | { readonly type: 'access-log'; readonly pieces: readonly string[] }
  | { readonly type: 'drained' };

/** How two meshed pods of one node speak: HTTP in memory, over an own connection without TLS, or as across nodes. */
export type SameNode = 'memory' | 'carrier' | 'mtls';

/** `workerData` of a proxy worker. */
export interface WorkerStart {
  readonly workerIndex: number;
  /** How many there are; what a pod may use of the node is shared among them. 1 if absent. */
  readonly workers?: number;
  readonly logLevel: string;
  readonly anchorsPem: string;
  readonly sameNode: SameNode;
  /** By which the workers of a node prove to each other whose connection they accepted; base64. */
  readonly permitKey: string;
  /** Label control_plane_ns; `nodemesh` if absent. */
  readonly controlPlaneNamespace?: string;
  /** How long requests and connections wait for an endpoint; 3 s if absent. */
  readonly failfastMs?: number;
  /** Connections of one pod in one worker; as many as is good where descriptors are plenty if absent. */
  readonly podConnectionsMax?: number;
  /** A new connection whose descriptor has this number or a higher one is refused; none if absent. */
  readonly descriptorsMax?: number;
  /** Map descriptors and layout that the socket records need (lib/bpf/socket-records.ts). */
  readonly kernel: unknown;
  /** Long connections of each worker (Int32Array); a worker without it keeps what it accepts. */
  readonly loads?: SharedArrayBuffer;
  /** Of each worker (Int32Array) a counter of beats, and the kernel's number of the thread; a silent worker is replaced. */
  readonly beats: SharedArrayBuffer;
  /** Descriptors opened through FFI, swept when the worker dies (lib/net/descriptor-table.ts). */
  readonly descriptors: SharedArrayBuffer;
}
