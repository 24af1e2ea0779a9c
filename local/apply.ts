// SPDX-License-Identifier: Apache-2.0
// What `apply`, `delete` and `annotate` do to the store. Everything is checked against the store before the
// first object changes, so that nothing is half applied. Running the objects is controllers.ts and kubelet.ts.

import { isDeepStrictEqual } from 'node:util';
import { MeshError } from '#lib/core/errors.ts';
import type { Manifest } from './manifest-schema.ts';
import type { PlacedManifest } from './manifests.ts';
import {
  type AnyObject,
  clusterScoped,
  describeObject,
  isTerminating,
  type Kind,
  namespaceOf,
  type ObjectMeta,
} from './objects.ts';
import { ServiceAddresses } from './service-addresses.ts';
import type { Store } from './store.ts';

export const DEFAULT_NAMESPACE = 'default';

export interface AppliedObject {
  readonly kind: Kind;
  readonly namespace: string;
  readonly name: string;
  readonly action: 'created' | 'configured' | 'unchanged' | 'deleted';
}

const manifestNamespace = (manifest: Manifest): string =>
  clusterScoped(manifest.kind)
    ? ''
    : (('namespace' in manifest.metadata ? manifest.metadata.namespace : undefined) ?? DEFAULT_NAMESPACE);

const refuse = (what: string, remedy: string): MeshError =>
  new MeshError('MESH_MANIFEST_INVALID', what, { remedy });

/** The object that `manifest` asks for, with the identity and status of the one that is there. */
function desiredObject(store: Store, manifest: Manifest, present: AnyObject | undefined): AnyObject {
  const namespace = manifestNamespace(manifest);
  const { name, labels, annotations } = manifest.metadata;
  const metadata: ObjectMeta =
    present === undefined
      ? store.newMeta({ name, labels, annotations, ...(namespace === '' ? {} : { namespace }) })
      : { ...present.metadata, labels, annotations };
  switch (manifest.kind) {
    case 'Namespace':
      return {
        apiVersion: 'v1',
        kind: 'Namespace',
        metadata: { ...metadata, labels: { ...labels, 'kubernetes.io/metadata.name': name } },
      };
    case 'ServiceAccount':
      return { apiVersion: 'v1', kind: 'ServiceAccount', metadata };
    case 'Service':
      return { apiVersion: 'v1', kind: 'Service', metadata, spec: manifest.spec };
    case 'HTTPRoute':
    case 'GRPCRoute': {
      const { apiVersion, kind, spec } = manifest;
      return { apiVersion, kind, metadata, spec } as AnyObject;
    }
    case 'Deployment':
      return {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata,
        spec: {
          replicas: manifest.spec.replicas,
          selector: manifest.spec.selector,
          template: {
            metadata: {
              labels: manifest.spec.template.metadata.labels,
              annotations: manifest.spec.template.metadata.annotations,
            },
            spec: manifest.spec.template.spec,
          },
        },
        status:
          present?.kind === 'Deployment'
            ? present.status
            : { replicas: 0, updatedReplicas: 0, readyReplicas: 0, availableReplicas: 0 },
      };
    case 'Pod': {
      const scheduled = present?.kind === 'Pod' ? present.spec.nodeName : undefined;
      return {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata,
        spec: {
          ...manifest.spec,
          ...(manifest.spec.nodeName === undefined && scheduled !== undefined ? { nodeName: scheduled } : {}),
        },
        status: present?.kind === 'Pod' ? present.status : { phase: 'Pending', conditions: [] },
      };
    }
  }
}

function checkAgainstStore(manifest: Manifest, present: AnyObject | undefined, desired: AnyObject): void {
  const what = describeObject(
    manifest.kind,
    manifestNamespace(manifest) || undefined,
    manifest.metadata.name,
  );
  if (present === undefined) return;
  if (isTerminating(present)) throw refuse(`${what} is being deleted`, 'wait until it is gone');
  if (present.kind === 'Pod' && desired.kind === 'Pod' && !isDeepStrictEqual(present.spec, desired.spec)) {
    throw refuse(`${what}: the spec of a pod cannot change`, 'delete the pod first, or use a Deployment');
  }
  if (
    present.kind === 'Deployment' &&
    desired.kind === 'Deployment' &&
    !isDeepStrictEqual(present.spec.selector, desired.spec.selector)
  ) {
    throw refuse(`${what}: the selector of a Deployment cannot change`, 'delete the Deployment first');
  }
}

/** Which of two documents for one object counts would be a guess. */
function checkOnce(manifests: readonly PlacedManifest[]): void {
  const seen = new Map<string, string>();
  for (const { where, manifest } of manifests) {
    const namespace = manifestNamespace(manifest);
    const what = describeObject(manifest.kind, namespace || undefined, manifest.metadata.name);
    const before = seen.get(what);
    if (before !== undefined) {
      throw refuse(`${where}: ${what} is there twice, first in ${before}`, 'remove one of them');
    }
    seen.set(what, where);
  }
}

interface Planned {
  readonly kind: Kind;
  readonly namespace: string;
  readonly name: string;
  readonly present: AnyObject | undefined;
  readonly object: AnyObject;
}

/** Applies all manifests or, if one of them cannot be, none. */
export function applyManifests(store: Store, manifests: readonly PlacedManifest[]): AppliedObject[] {
  const newNamespaces = new Set(
    manifests.flatMap(({ manifest }) => (manifest.kind === 'Namespace' ? [manifest.metadata.name] : [])),
  );
  const addresses = new ServiceAddresses(store.list('Service'));
  checkOnce(manifests);
  const planned = (manifest: Manifest): Planned => {
    const { kind } = manifest;
    const namespace = manifestNamespace(manifest);
    const { name } = manifest.metadata;
    const home = store.get('Namespace', '', namespace);
    if (namespace !== '' && !newNamespaces.has(namespace) && (home === undefined || isTerminating(home))) {
      throw refuse(
        `${describeObject(kind, namespace, name)}: there is no namespace ${namespace}`,
        'add a Namespace to the manifests',
      );
    }
    const present: AnyObject | undefined = store.get(kind, namespace, name);
    let object = desiredObject(store, manifest, present);
    checkAgainstStore(manifest, present, object);
    if (object.kind === 'Service') {
      object = addresses.assign(object, present?.kind === 'Service' ? present : undefined);
    }
    return { kind, namespace, name, present, object };
  };
  const plan = manifests.map(({ where, manifest }) => {
    try {
      return planned(manifest);
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      throw new MeshError(error.code, `${where}: ${error.message}`, { retryable: error.retryable });
    }
  });
  // Namespaces first, so that everything finds its own.
  plan.sort((a, b) => Number(b.kind === 'Namespace') - Number(a.kind === 'Namespace'));
  return plan.map(({ kind, namespace, name, present, object }) => {
    const action =
      present === undefined ? 'created' : isDeepStrictEqual(present, object) ? 'unchanged' : 'configured';
    if (action !== 'unchanged') store.put(object);
    return { kind, namespace, name, action };
  });
}

export interface ObjectRef {
  readonly kind: Kind;
  readonly namespace: string;
  readonly name: string;
}

/** Deletes an object and what belongs to it; pods end on their node first. */
export function deleteObject(store: Store, object: AnyObject): void {
  const { uid } = object.metadata;
  if (object.kind === 'Pod') {
    store.markDeleted(object);
    return;
  }
  if (object.kind === 'Namespace') {
    for (const other of store.all()) {
      if (namespaceOf(other) === object.metadata.name) deleteObject(store, other);
    }
    // Removed by the controller once its pods are gone.
    store.markDeleted(object);
    return;
  }
  store.remove(object);
  for (const other of store.all()) {
    if (other.metadata.ownerReferences?.some((owner) => owner.uid === uid)) deleteObject(store, other);
  }
}

/** Deletes what `refs` name; rejects before anything is deleted if one is unknown. */
export function deleteObjects(store: Store, refs: readonly ObjectRef[]): AppliedObject[] {
  const objects = refs.map((ref) => store.require(ref.kind, ref.namespace, ref.name));
  // What an earlier one took along (a namespace its pods) is only deleted once.
  for (const object of objects) {
    const present = store.get(object.kind, namespaceOf(object), object.metadata.name);
    if (present !== undefined) deleteObject(store, present);
  }
  return refs.map((ref) => ({ ...ref, action: 'deleted' }));
}

export const manifestRefs = (manifests: readonly PlacedManifest[]): ObjectRef[] =>
  manifests.map(({ manifest }) => ({
    kind: manifest.kind,
    namespace: manifestNamespace(manifest),
    name: manifest.metadata.name,
  }));

/** `key=value` sets, `key-` removes, as kubectl reads them. */
export function parseAnnotations(items: readonly string[]): Map<string, string | undefined> {
  const changes = new Map<string, string | undefined>();
  for (const item of items) {
    const equals = item.indexOf('=');
    const key = equals < 0 ? item.replace(/-$/, '') : item.slice(0, equals);
    if (key === '' || (equals < 0 && !item.endsWith('-'))) {
      throw new MeshError('MESH_CONFIG_INVALID', `"${item}" is no annotation`, {
        remedy: 'write key=value to set, key- to remove',
      });
    }
    changes.set(key, equals < 0 ? undefined : item.slice(equals + 1));
  }
  return changes;
}

export function annotateObject(store: Store, ref: ObjectRef, items: readonly string[]): AppliedObject {
  const object: AnyObject = store.require(ref.kind, ref.namespace, ref.name);
  const annotations = { ...object.metadata.annotations };
  for (const [key, value] of parseAnnotations(items)) {
    if (value === undefined) delete annotations[key];
    else annotations[key] = value;
  }
  store.put({ ...object, metadata: { ...object.metadata, annotations } } as AnyObject);
  return { ...ref, action: 'configured' };
}
