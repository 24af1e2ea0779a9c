// SPDX-License-Identifier: Apache-2.0
// CustomResourceDefinitions: which of them to print for a cluster, and whether those that it has will do. Somebody
// else's (Linkerd's own) are never overwritten.

import { definitionGroups, definitions, nameOf, readVersionOf } from '../../install/crds/definitions.ts';
import { CONTROL_PLANE_LABEL } from '../../install/objects/common.ts';
import { type KubernetesObject, renderObjects } from '../../install/render-objects.ts';
import type { Values } from '../../install/values.ts';
import type { Cluster, ClusterObject } from './cluster.ts';
import { Refusal } from './refusal.ts';

const PATH = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';

interface DefinitionObject extends ClusterObject {
  readonly spec: { readonly versions: readonly { readonly name: string; readonly served: boolean }[] };
}

export const isOurs = (object: ClusterObject): boolean =>
  object.metadata.labels?.[CONTROL_PLANE_LABEL] !== undefined;

const serves = (found: DefinitionObject, version: string): boolean =>
  found.spec.versions.some(({ name, served }) => name === version && served);

export interface DefinitionOptions {
  readonly cluster: Cluster | undefined;
  readonly namespace: string;
  readonly values: Values;
  readonly version: string;
  readonly note: (line: string) => void;
}

/** Those that are absent or ours. */
export async function definitionObjects(options: DefinitionOptions): Promise<KubernetesObject[]> {
  const all = renderObjects(definitionGroups, {
    values: options.values,
    namespace: options.namespace,
    creator: `nodemesh/cli ${options.version}`,
  });
  const { cluster } = options;
  if (cluster === undefined) return all;
  const skipped = new Set<string>();
  const unfit: string[] = [];
  for (const definition of definitions) {
    const name = nameOf(definition);
    const found = (await cluster.get(`${PATH}/${name}`)) as DefinitionObject | undefined;
    if (found === undefined || isOurs(found)) continue;
    skipped.add(name);
    if (!serves(found, readVersionOf(definition))) unfit.push(`${name} (${readVersionOf(definition)})`);
  }
  if (unfit.length > 0) {
    throw new Refusal(
      `The cluster has CRDs of somebody else that do not serve the version which nodemesh reads: ${unfit.join(', ')}.\nUpgrade what installed them (\`linkerd upgrade --crds\`), or remove them if nothing uses them.`,
    );
  }
  if (skipped.size > 0)
    options.note(`Left as they are, because somebody else installed them: ${[...skipped].join(', ')}`);
  return all.filter(({ metadata }) => !skipped.has(metadata.name));
}

/** Before the control plane: everything that it watches must be there. */
export async function requireDefinitions(cluster: Cluster, verb: 'install' | 'upgrade'): Promise<void> {
  const missing: string[] = [];
  for (const definition of definitions) {
    const found = (await cluster.get(`${PATH}/${nameOf(definition)}`)) as DefinitionObject | undefined;
    if (found === undefined || !serves(found, readVersionOf(definition))) {
      missing.push(`${nameOf(definition)} ${readVersionOf(definition)}`);
    }
  }
  if (missing.length === 0) return;
  throw new Refusal(
    `nodemesh CRDs must be installed first. Run mesh ${verb} with the --crds flag.${
      missing.length === definitions.length ? '' : `\nMissing: ${missing.join(', ')}`
    }`,
  );
}
