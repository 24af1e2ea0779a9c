// SPDX-License-Identifier: Apache-2.0
// Where each kind of the model is found in the Kubernetes API, and what of an object is kept in memory.

import { type AnyResource, ENROLLED_CONDITION, type Kind } from '#lib/registry/model.ts';
import { parseResource, type ParsedResource } from '#lib/registry/resource-schema.ts';

export interface KindSource {
  /** Paths of the collection, the preferred version first. */
  readonly paths: readonly string[];
  /** Only metadata is read: the server leaves the rest out. */
  readonly metadataOnly: boolean;
  /** The CustomResourceDefinition; it may be absent. */
  readonly definition: string | undefined;
}

const builtIn = (path: string, metadataOnly = false): KindSource => ({
  paths: [path],
  metadataOnly,
  definition: undefined,
});

const custom = (group: string, versions: readonly string[], plural: string): KindSource => ({
  paths: versions.map((version) => `/apis/${group}/${version}/${plural}`),
  metadataOnly: false,
  definition: `${plural}.${group}`,
});

export const kindSources: Readonly<Record<Kind, KindSource>> = {
  Namespace: builtIn('/api/v1/namespaces', true),
  Node: builtIn('/api/v1/nodes'),
  ServiceAccount: builtIn('/api/v1/serviceaccounts', true),
  Deployment: builtIn('/apis/apps/v1/deployments'),
  ReplicaSet: builtIn('/apis/apps/v1/replicasets', true),
  Job: builtIn('/apis/batch/v1/jobs', true),
  Pod: builtIn('/api/v1/pods'),
  Service: builtIn('/api/v1/services'),
  EndpointSlice: builtIn('/apis/discovery.k8s.io/v1/endpointslices'),
  HTTPRoute: custom('gateway.networking.k8s.io', ['v1', 'v1beta1'], 'httproutes'),
  PolicyHTTPRoute: custom('policy.linkerd.io', ['v1beta3'], 'httproutes'),
  GRPCRoute: custom('gateway.networking.k8s.io', ['v1'], 'grpcroutes'),
  ServiceProfile: custom('linkerd.io', ['v1alpha2'], 'serviceprofiles'),
  ExternalWorkload: custom('workload.linkerd.io', ['v1beta1', 'v1alpha1'], 'externalworkloads'),
};

const METADATA = 'meta.k8s.io;v=v1,application/json';

export const listAccept = (source: KindSource): string =>
  source.metadataOnly ? `application/json;as=PartialObjectMetadataList;g=${METADATA}` : 'application/json';

export const watchAccept = (source: KindSource): string =>
  source.metadataOnly ? `application/json;as=PartialObjectMetadata;g=${METADATA}` : 'application/json';

/** Annotations of others can be long, above all what kubectl notes. */
const ownAnnotation = /^([a-z0-9.-]+\.)?(linkerd|nodemesh)\.io\//;

/** Of a pod's conditions, those that are read: the others would only make changes. */
const readConditions = new Set(['Ready', ENROLLED_CONDITION]);

/** An object as it is kept. */
export function readObject(kind: Kind, raw: unknown, cluster: string): ParsedResource {
  const parsed = parseResource(kind, raw, cluster);
  return parsed.ok ? { ok: true, resource: slim(parsed.resource) } : parsed;
}

function slim(resource: AnyResource): AnyResource {
  const annotations: Record<string, string> = {};
  for (const [name, value] of Object.entries(resource.metadata.annotations)) {
    if (ownAnnotation.test(name)) annotations[name] = value;
  }
  const metadata = { ...resource.metadata, annotations };
  if (resource.kind !== 'Pod') return { ...resource, metadata };
  const conditions = resource.status.conditions
    .filter(({ type }) => readConditions.has(type))
    .map((condition) => (condition.type === ENROLLED_CONDITION ? withGeneration(condition) : condition));
  return { ...resource, metadata, status: { ...resource.status, conditions } };
}

type Condition = { readonly message: string; readonly observedGeneration: number };

/**
 * Kubernetes before 1.33 knows no observedGeneration of a pod's condition and drops it: the generation stands at the
 * end of the message too.
 */
const generationText = /(?:^| )\(generation (\d{1,16})\)$/;

export const messageWithGeneration = (message: string, generation: number): string =>
  `${message}${message === '' ? '' : ' '}(generation ${generation})`;

function withGeneration<C extends Condition>(condition: C): C {
  const found = generationText.exec(condition.message);
  if (found === null) return condition;
  return {
    ...condition,
    message: condition.message.slice(0, found.index),
    observedGeneration: Number(found[1]),
  };
}
