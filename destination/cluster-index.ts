// SPDX-License-Identifier: Apache-2.0
// What the streams look up, kept from the registry's watches: pods with their effective configuration, by
// address and by node; services by address; endpoints of services. Who subscribes to a topic is called once per
// batch of changes and then reads anew: the index pushes no data, so that a slow stream holds up nothing.

import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import {
  type AnyRoute,
  ENROLLED_CONDITION,
  type EndpointSlice,
  type ExternalWorkload,
  keyOf,
  keyText,
  type Kind,
  type Namespace,
  type Pod,
  podCondition,
  podReady,
  podTerminal,
  type ResourceKey,
  SERVICE_NAME_LABEL,
  type Service,
  type ServiceProfile,
} from '#lib/registry/model.ts';
import type { Registry, Watch } from '#lib/registry/registry.ts';
import { isOwnedBy, type OwnedOwner } from '#lib/registry/owner.ts';
import { hostPortsOf } from '#lib/registry/workload-config.ts';
import { ExternalWorkloads, takesExternalTraffic } from './external-workloads.ts';
import { Groups } from './groups.ts';
import { createMeshPod, type MeshPod } from './mesh-pod.ts';

/** What it reads. */
export const INDEXED_KINDS: readonly Kind[] = [
  'Namespace',
  'Node',
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

export type Topic =
  | { readonly kind: 'service'; readonly key: ResourceKey }
  | { readonly kind: 'external-workload'; readonly key: ResourceKey }
  | { readonly kind: 'ip'; readonly cluster: string; readonly ip: string }
  | { readonly kind: 'node'; readonly cluster: string; readonly name: string }
  | { readonly kind: 'namespaces' };

const topicText = (topic: Topic): string => {
  switch (topic.kind) {
    case 'service':
      return `service ${keyText(topic.key)}`;
    case 'external-workload':
      return `external-workload ${keyText(topic.key)}`;
    case 'ip':
      return `ip ${topic.cluster}/${topic.ip}`;
    case 'node':
      return `node ${topic.cluster}/${topic.name}`;
    case 'namespaces':
      return 'namespaces';
  }
};

/** The same in the same order. */
export const sameTopics = (some: readonly Topic[], others: readonly Topic[]): boolean =>
  some === others ||
  (some.length === others.length &&
    some.every((topic, at) => {
      const other = others[at];
      return other !== undefined && topicText(topic) === topicText(other);
    }));

export interface Subscriber {
  /** A topic has changed. */
  refresh(): void;
}

export interface ClusterIndex {
  synced(): Promise<void>;
  readonly isSynced: boolean;
  service(key: ResourceKey): Service | undefined;
  /** One, unless something is wrong. */
  servicesOfIp(cluster: string, ip: string): readonly Service[];
  /** Running pods with this address of their own, so one; terminating and hostNetwork pods do not count. */
  podsOfIp(cluster: string, ip: string): readonly MeshPod[];
  /** Running pods to which a port of their node leads. */
  podsOfHostPort(cluster: string, ip: string, port: number): readonly MeshPod[];
  pod(key: ResourceKey): MeshPod | undefined;
  podsOfNode(cluster: string, node: string): readonly MeshPod[];
  /** Pods that a service sends traffic to; another array whenever they, the service or its slices change. */
  backends(service: Service): readonly MeshPod[];
  /** Those outside the cluster: its view of them changes together with `backends`. */
  externalBackends(service: Service): readonly ExternalWorkload[];
  externalWorkload(key: ResourceKey): ExternalWorkload | undefined;
  externalWorkloads(cluster: string, namespace: string): readonly ExternalWorkload[];
  /** External workloads with this address and port, so one. */
  externalWorkloadsAt(cluster: string, ip: string, port: number): readonly ExternalWorkload[];
  /** Routes with this service among their parents, in no order. */
  routes(service: ResourceKey): readonly AnyRoute[];
  /** Its name is that of the service which it is for. */
  serviceProfile(key: ResourceKey): ServiceProfile | undefined;
  namespace(cluster: string, name: string): Namespace | undefined;
  namespaces(cluster: string): readonly Namespace[];
  zoneOfNode(cluster: string, node: string): string;
  /** The zones whose clients shall use an endpoint, by its address; without an entry nothing is said of it. */
  zoneHints(service: Service): ReadonlyMap<string, readonly string[]>;
  slices(service: Service): Iterable<EndpointSlice>;
  subscribe(topics: readonly Topic[], subscriber: Subscriber): void;
  unsubscribe(topics: readonly Topic[], subscriber: Subscriber): void;
  /** Every pod that is there or changes, in any way that concerns the mesh. One listener. */
  onPod(listener: PodListener): void;
  close(): void;
}

export interface PodListener {
  changed(meshPod: MeshPod): void;
  removed(uid: string): void;
}

export interface ClusterIndexOptions {
  readonly registry: Registry;
  readonly settings: MeshSettings;
}

export function createClusterIndex(options: ClusterIndexOptions): ClusterIndex {
  return new Index(options);
}

class Index implements ClusterIndex {
  isSynced = false;
  readonly #registry: Registry;
  readonly #settings: MeshSettings;
  readonly #watches: Watch[];
  /** By keyText. */
  readonly #pods = new Map<string, MeshPod>();
  readonly #podsByNamespace = new Groups<MeshPod>();
  readonly #podsByNode = new Groups<MeshPod>();
  readonly #podsByIp = new Groups<MeshPod>();
  readonly #podsByHostPort = new Groups<MeshPod>();
  readonly #externalWorkloads = new ExternalWorkloads();
  readonly #servicesByNamespace = new Groups<Service>();
  readonly #servicesByIp = new Groups<Service>();
  /** By the keyText of their parents. */
  readonly #routes = new Groups<AnyRoute>();
  readonly #backends = new Map<string, readonly MeshPod[]>();
  /** By the service's keyText. */
  readonly #slices = new Groups<EndpointSlice>();
  readonly #subscribers = new Groups<Subscriber>();
  readonly #dirty = new Set<string>();
  #podListener: PodListener | undefined;

  constructor(options: ClusterIndexOptions) {
    this.#registry = options.registry;
    this.#settings = options.settings;
    const { registry } = options;
    const refreshNamespace = (namespace: Namespace): void => this.#namespaceChanged(namespace);
    const refreshNode = (node: { cluster: string; metadata: { name: string } }): void => {
      for (const pod of this.podsOfNode(node.cluster, node.metadata.name)) this.#podChanged(pod.pod, pod.pod);
    };
    const refreshOwned = (owner: OwnedOwner): void => {
      for (const { pod } of this.#podsByNamespace.list(`${owner.cluster}/${owner.metadata.namespace}`)) {
        if (isOwnedBy(pod, owner)) this.#podChanged(pod, pod);
      }
    };
    const all = <R>(run: (resource: R) => void) => ({ added: run, changed: run, removed: run });
    this.#watches = [
      registry.watch('Namespace', all(refreshNamespace)),
      registry.watch('Node', all(refreshNode)),
      registry.watch('ReplicaSet', all(refreshOwned)),
      registry.watch('Job', all(refreshOwned)),
      registry.watch('Pod', {
        added: (pod) => this.#podChanged(undefined, pod),
        changed: (pod, previous) => this.#podChanged(previous, pod),
        removed: (pod) => this.#podChanged(pod, undefined),
      }),
      registry.watch('Service', {
        added: (service) => this.#serviceChanged(undefined, service),
        changed: (service, previous) => this.#serviceChanged(previous, service),
        removed: (service) => this.#serviceChanged(service, undefined),
      }),
      registry.watch('EndpointSlice', {
        added: (slice) => this.#sliceChanged(undefined, slice),
        changed: (slice, previous) => this.#sliceChanged(previous, slice),
        removed: (slice) => this.#sliceChanged(slice, undefined),
      }),
      registry.watch('ExternalWorkload', {
        added: (workload) => this.#externalWorkloadChanged(undefined, workload),
        changed: (workload, previous) => this.#externalWorkloadChanged(previous, workload),
        removed: (workload) => this.#externalWorkloadChanged(workload, undefined),
      }),
      registry.watch(
        'ServiceProfile',
        all(({ cluster, metadata }: ServiceProfile) => {
          const [name = '', namespace = ''] = metadata.name.split('.');
          this.#touch({ kind: 'service', key: { cluster, namespace, name } });
        }),
      ),
      ...routeKinds.map((kind) =>
        registry.watch(kind, {
          added: (route) => this.#routeChanged(undefined, route),
          changed: (route, previous) => this.#routeChanged(previous, route),
          removed: (route) => this.#routeChanged(route, undefined),
        }),
      ),
    ];
  }

  async synced(): Promise<void> {
    await this.#registry.synced();
    this.isSynced = true;
  }

  service(key: ResourceKey): Service | undefined {
    return this.#registry.get('Service', key);
  }

  servicesOfIp(cluster: string, ip: string): readonly Service[] {
    return this.#servicesByIp.list(`${cluster}/${ip}`);
  }

  podsOfIp(cluster: string, ip: string): readonly MeshPod[] {
    return this.#podsByIp
      .list(`${cluster}/${ip}`)
      .filter(({ pod }) => !pod.spec.hostNetwork && takesTraffic(pod));
  }

  podsOfHostPort(cluster: string, ip: string, port: number): readonly MeshPod[] {
    return this.#podsByHostPort.list(`${cluster}/${ip}/${port}`).filter(({ pod }) => takesTraffic(pod));
  }

  pod(key: ResourceKey): MeshPod | undefined {
    return this.#pods.get(keyText(key));
  }

  podsOfNode(cluster: string, node: string): readonly MeshPod[] {
    return this.#podsByNode.list(`${cluster}/${node}`);
  }

  backends(service: Service): readonly MeshPod[] {
    const key = keyText(keyOf(service));
    const known = this.#backends.get(key);
    if (known !== undefined) return known;
    const { selector, publishNotReadyAddresses } = service.spec;
    const found =
      selector === undefined || Object.keys(selector).length === 0
        ? []
        : this.#podsByNamespace
            .list(`${service.cluster}/${service.metadata.namespace}`)
            .filter(
              ({ pod }) =>
                selects(selector, pod.metadata.labels) &&
                !podTerminal(pod) &&
                pod.status.podIPs.length > 0 &&
                (publishNotReadyAddresses || podReady(pod)),
            );
    this.#backends.set(key, found);
    return found;
  }

  externalBackends(service: Service): readonly ExternalWorkload[] {
    const { selector } = service.spec;
    if (selector === undefined || Object.keys(selector).length === 0) return [];
    return this.externalWorkloads(service.cluster, service.metadata.namespace).filter(
      (one) => takesExternalTraffic(one) && selects(selector, one.metadata.labels),
    );
  }

  externalWorkload(key: ResourceKey): ExternalWorkload | undefined {
    return this.#registry.get('ExternalWorkload', key);
  }

  externalWorkloads(cluster: string, namespace: string): readonly ExternalWorkload[] {
    return this.#externalWorkloads.of(cluster, namespace);
  }

  externalWorkloadsAt(cluster: string, ip: string, port: number): readonly ExternalWorkload[] {
    return this.#externalWorkloads.at(cluster, ip, port);
  }

  routes(service: ResourceKey): readonly AnyRoute[] {
    return this.#routes.list(keyText(service));
  }

  serviceProfile(key: ResourceKey): ServiceProfile | undefined {
    return this.#registry.get('ServiceProfile', key);
  }

  namespace(cluster: string, name: string): Namespace | undefined {
    return this.#registry.get('Namespace', { cluster, namespace: '', name });
  }

  namespaces(cluster: string): readonly Namespace[] {
    return this.#registry.list('Namespace').filter((namespace) => namespace.cluster === cluster);
  }

  zoneOfNode(cluster: string, node: string): string {
    const found = this.#registry.get('Node', { cluster, namespace: '', name: node });
    return found?.metadata.labels['topology.kubernetes.io/zone'] ?? '';
  }

  slices(service: Service): Iterable<EndpointSlice> {
    return this.#slices.of(keyText(keyOf(service)));
  }

  zoneHints(service: Service): ReadonlyMap<string, readonly string[]> {
    const hints = new Map<string, readonly string[]>();
    for (const { endpoints } of this.#slices.of(keyText(keyOf(service)))) {
      for (const { addresses, forZones } of endpoints) {
        if (forZones !== undefined) for (const address of addresses) hints.set(address, forZones);
      }
    }
    return hints;
  }

  subscribe(topics: readonly Topic[], subscriber: Subscriber): void {
    for (const topic of topics) this.#subscribers.add(topicText(topic), subscriber);
  }

  unsubscribe(topics: readonly Topic[], subscriber: Subscriber): void {
    for (const topic of topics) this.#subscribers.delete(topicText(topic), subscriber);
  }

  onPod(listener: PodListener): void {
    this.#podListener = listener;
    for (const meshPod of this.#pods.values()) listener.changed(meshPod);
  }

  close(): void {
    for (const watch of this.#watches) watch.close();
  }

  #podChanged(previous: Pod | undefined, pod: Pod | undefined): void {
    const old = previous && this.#pods.get(keyText(keyOf(previous)));
    if (old !== undefined) this.#unlink(old);
    if (pod !== undefined) this.#link(this.#meshPod(pod));
    else if (previous !== undefined) this.#podListener?.removed(previous.metadata.uid);
    for (const one of [previous, pod]) {
      if (one === undefined) continue;
      for (const ip of one.status.podIPs) this.#touch({ kind: 'ip', cluster: one.cluster, ip });
      for (const { ip } of nodePortsOf(one)) this.#touch({ kind: 'ip', cluster: one.cluster, ip });
      this.#touch({ kind: 'node', cluster: one.cluster, name: one.spec.nodeName });
      this.#touchServicesOf(one);
    }
  }

  #externalWorkloadChanged(previous: ExternalWorkload | undefined, now: ExternalWorkload | undefined): void {
    this.#externalWorkloads.change(previous, now);
    for (const one of [previous, now]) {
      if (one === undefined) continue;
      this.#touch({ kind: 'external-workload', key: keyOf(one) });
      for (const ip of one.spec.workloadIps) this.#touch({ kind: 'ip', cluster: one.cluster, ip });
      this.#touchServicesOf(one);
    }
  }

  /** Those that select it: they have other endpoints now. */
  #touchServicesOf({ cluster, metadata }: Pod | ExternalWorkload): void {
    for (const service of this.#servicesByNamespace.of(`${cluster}/${metadata.namespace}`)) {
      if (service.spec.selector === undefined || !selects(service.spec.selector, metadata.labels)) continue;
      this.#backends.delete(keyText(keyOf(service)));
      this.#touch({ kind: 'service', key: keyOf(service) });
    }
  }

  #meshPod(pod: Pod): MeshPod {
    const { cluster } = pod;
    const { namespace } = pod.metadata;
    return createMeshPod(pod, {
      settings: this.#settings,
      namespace: this.namespace(cluster, namespace),
      findOwner: (kind, name) => this.#registry.get(kind, { cluster, namespace, name }),
      zone: this.zoneOfNode(cluster, pod.spec.nodeName),
    });
  }

  #link(found: MeshPod): void {
    const { pod } = found;
    this.#pods.set(keyText(keyOf(pod)), found);
    this.#podsByNamespace.add(`${pod.cluster}/${pod.metadata.namespace}`, found);
    this.#podsByNode.add(`${pod.cluster}/${pod.spec.nodeName}`, found);
    for (const ip of pod.status.podIPs) this.#podsByIp.add(`${pod.cluster}/${ip}`, found);
    for (const { ip, port } of nodePortsOf(pod))
      this.#podsByHostPort.add(`${pod.cluster}/${ip}/${port}`, found);
    this.#podListener?.changed(found);
  }

  #unlink(found: MeshPod): void {
    const { pod } = found;
    this.#pods.delete(keyText(keyOf(pod)));
    this.#podsByNamespace.delete(`${pod.cluster}/${pod.metadata.namespace}`, found);
    this.#podsByNode.delete(`${pod.cluster}/${pod.spec.nodeName}`, found);
    for (const ip of pod.status.podIPs) this.#podsByIp.delete(`${pod.cluster}/${ip}`, found);
    for (const { ip, port } of nodePortsOf(pod)) {
      this.#podsByHostPort.delete(`${pod.cluster}/${ip}/${port}`, found);
    }
  }

  #serviceChanged(previous: Service | undefined, service: Service | undefined): void {
    for (const one of [previous, service]) {
      if (one === undefined) continue;
      this.#backends.delete(keyText(keyOf(one)));
      this.#touch({ kind: 'service', key: keyOf(one) });
      for (const ip of one.spec.clusterIPs) this.#touch({ kind: 'ip', cluster: one.cluster, ip });
    }
    if (previous !== undefined) {
      this.#servicesByNamespace.delete(`${previous.cluster}/${previous.metadata.namespace}`, previous);
      for (const ip of previous.spec.clusterIPs)
        this.#servicesByIp.delete(`${previous.cluster}/${ip}`, previous);
    }
    if (service !== undefined) {
      this.#servicesByNamespace.add(`${service.cluster}/${service.metadata.namespace}`, service);
      for (const ip of service.spec.clusterIPs) this.#servicesByIp.add(`${service.cluster}/${ip}`, service);
    }
  }

  #sliceChanged(previous: EndpointSlice | undefined, slice: EndpointSlice | undefined): void {
    for (const one of [previous, slice]) {
      const name = one && serviceNameOf(one);
      if (one === undefined || name === undefined) continue;
      const key = { cluster: one.cluster, namespace: one.metadata.namespace, name };
      if (one === slice) this.#slices.add(keyText(key), one);
      else this.#slices.delete(keyText(key), one);
      this.#backends.delete(keyText(key));
      this.#touch({ kind: 'service', key });
    }
  }

  #routeChanged(previous: AnyRoute | undefined, route: AnyRoute | undefined): void {
    const parents = (one: AnyRoute | undefined): ResourceKey[] =>
      one === undefined ? [] : parentServices(one).map(({ key }) => key);
    if (previous !== undefined)
      for (const key of parents(previous)) this.#routes.delete(keyText(key), previous);
    if (route !== undefined) for (const key of parents(route)) this.#routes.add(keyText(key), route);
    for (const key of [...parents(previous), ...parents(route)]) this.#touch({ kind: 'service', key });
  }

  #namespaceChanged(namespace: Namespace): void {
    this.#touch({ kind: 'namespaces' });
    const key = `${namespace.cluster}/${namespace.metadata.name}`;
    for (const { pod } of this.#podsByNamespace.list(key)) this.#podChanged(pod, pod);
    // Opaque ports of services are inherited.
    for (const service of this.#servicesByNamespace.list(key)) this.#serviceChanged(service, service);
  }

  #touch(topic: Topic): void {
    if (this.#dirty.size === 0) queueMicrotask(() => this.#flush());
    this.#dirty.add(topicText(topic));
  }

  #flush(): void {
    const called = new Set<Subscriber>();
    for (const topic of this.#dirty) for (const one of this.#subscribers.of(topic)) called.add(one);
    this.#dirty.clear();
    for (const subscriber of called) subscriber.refresh();
  }
}

/** The condition says that the pod is not enrolled: no replica of destination that sees it advertises the pod. */
export const reportedOut = ({ pod }: MeshPod): boolean =>
  podCondition(pod, ENROLLED_CONDITION)?.status === 'False';

export const routeKinds = ['HTTPRoute', 'PolicyHTTPRoute', 'GRPCRoute'] as const;

/** The services that a route is for; `port` undefined: all of their ports. */
export const parentServices = (
  route: AnyRoute,
): readonly { readonly key: ResourceKey; readonly port: number | undefined }[] =>
  route.spec.parentRefs
    .filter(({ group, kind }) => kind === 'Service' && (group === '' || group === 'core'))
    .map(({ namespace, name, port }) => ({
      key: { cluster: route.cluster, namespace: namespace ?? route.metadata.namespace, name },
      port: port ?? undefined,
    }));

const takesTraffic = (pod: Pod): boolean => !podTerminal(pod) && pod.metadata.deletionTimestamp === '';

/** Addresses and ports of its node that lead to it. */
const nodePortsOf = (pod: Pod): readonly { readonly ip: string; readonly port: number }[] =>
  hostPortsOf(pod).flatMap(({ hostPort }) => pod.status.hostIPs.map((ip) => ({ ip, port: hostPort })));

/** By its label, else by its owner. */
const serviceNameOf = ({ metadata }: EndpointSlice): string | undefined =>
  metadata.labels[SERVICE_NAME_LABEL] ??
  metadata.ownerReferences.find(({ kind }) => kind === 'Service')?.name;

const selects = (
  selector: Readonly<Record<string, string>>,
  labels: Readonly<Record<string, string>>,
): boolean => Object.entries(selector).every(([name, value]) => labels[name] === value);
