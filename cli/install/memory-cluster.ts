// SPDX-License-Identifier: Apache-2.0
// A cluster in memory that answers as the API server would, for tests of what commands print.

import { definitionsKind, clusterKinds, type KindPath, namespaceKind, workloadKinds } from './owned.ts';
import type { Cluster, ClusterObject } from './cluster.ts';

const pods: KindPath = { apiVersion: 'v1', kind: 'Pod', path: '/api/v1/pods' };
const nodes: KindPath = { apiVersion: 'v1', kind: 'Node', path: '/api/v1/nodes' };
const kinds = [...clusterKinds, definitionsKind, namespaceKind, ...workloadKinds, pods, nodes];

export interface MemoryCluster extends Cluster {
  add(objects: readonly object[]): void;
}

export function memoryCluster(): MemoryCluster {
  const objects = new Map<string, ClusterObject>();
  const collectionOf = (object: ClusterObject): string | undefined =>
    kinds.find(({ kind }) => kind === object.kind)?.path;
  return {
    add(given) {
      for (const one of given) {
        const object = one as ClusterObject & { readonly stringData?: Readonly<Record<string, string>> };
        const path = collectionOf(object);
        if (path === undefined) throw new Error(`unknown kind ${object.kind ?? ''}`);
        const { name, namespace } = object.metadata;
        const key =
          namespace === undefined
            ? `${path}/${name}`
            : `${path.replace(/\/([a-z]+)$/, `/namespaces/${namespace}/$1`)}/${name}`;
        const data = Object.entries(object.stringData ?? {}).map(([entry, text]) => [
          entry,
          Buffer.from(text).toString('base64'),
        ]);
        objects.set(
          key,
          object.stringData === undefined ? object : { ...object, data: Object.fromEntries(data) as unknown },
        );
      }
    },
    get: (path) => Promise.resolve(objects.get(path)),
    list(path, labelSelector) {
      const kind = kinds.find((one) => one.path === path)?.kind;
      if (kind === undefined) return Promise.resolve(undefined);
      const [label = '', wanted] = labelSelector?.split('=') ?? [];
      const found = [...objects.values()].filter(({ kind: own, metadata }) => {
        const value = metadata.labels?.[label];
        return own === kind && (label === '' || (value !== undefined && (wanted ?? value) === value));
      });
      return Promise.resolve(found);
    },
    apply(path, object) {
      objects.set(path, object as ClusterObject);
      return Promise.resolve();
    },
    ask: (path) => Promise.reject(new Error(`nobody answers ${path}`)),
    text: (path) => Promise.reject(new Error(`nobody answers ${path}`)),
    remove(path) {
      objects.delete(path);
      return Promise.resolve();
    },
    close() {},
  };
}
