// SPDX-License-Identifier: Apache-2.0
// `mesh install-cni`: prints what runs on the nodes. What agents and control plane must agree on is taken from the
// installation in the cluster; the rest from the command line alone, so that the same command prints the same objects.

import { parse } from 'yaml';
import { cniObjects } from '../../install/cni.ts';
import { cniValues } from '../../install/cni-values-table.ts';
import { CONFIG_MAP } from '../../install/objects/config.ts';
import { type OutputFormat, printObjects } from '../../install/print.ts';
import { checkValues, lookUp, mergeValues, type ValuesMap, valuesOf } from '../../install/values.ts';
import { type Cluster, configText } from './cluster.ts';
import { isOurs } from './definitions.ts';
import { noteIgnored } from './install.ts';
import { Refusal } from './refusal.ts';

export interface InstallCniArguments {
  readonly namespace: string;
  readonly output: OutputFormat;
  /** undefined: the cluster is not asked. */
  readonly cluster: Cluster | undefined;
  /** What the command line says over the values of the control plane. */
  readonly change: (base: ValuesMap) => Promise<ValuesMap>;
  readonly version: string;
  /** A line for standard error. */
  readonly note: (line: string) => void;
}

/** Paths of the control plane's values, and what they are called here. */
const shared: readonly (readonly [string, string])[] = [
  ['clusterDomain', 'clusterDomain'],
  ['identityTrustDomain', 'identityTrustDomain'],
  ['identity.namespace', 'identity.namespace'],
  ['imagePullPolicy', 'image.pullPolicy'],
  ['imagePullSecrets', 'imagePullSecrets'],
  ['commonLabels', 'commonLabels'],
  ['nodemesh.registry', 'nodemesh.registry'],
];

export async function installCni(options: InstallCniArguments): Promise<string> {
  const { cluster, namespace, version, note } = options;
  const base = cluster === undefined ? {} : await controlPlaneValuesIn(cluster, namespace, note);
  const { values, ignored } = checkValues(await options.change(base), cniValues);
  noteIgnored(ignored, note);
  return printObjects(cniObjects({ values, namespace, version }), options.output);
}

async function controlPlaneValuesIn(
  cluster: Cluster,
  namespace: string,
  note: (line: string) => void,
): Promise<ValuesMap> {
  const map = await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/${CONFIG_MAP}`);
  if (map !== undefined && !isOurs(map)) {
    throw new Refusal(
      `ConfigMap/${CONFIG_MAP} in the '${namespace}' namespace belongs to Linkerd. Agents have to be where the nodemesh control plane is: name its namespace with --linkerd-namespace.`,
    );
  }
  if (map === undefined) {
    note(`There is no control plane in the namespace '${namespace}' so far; the agents will wait for it.`);
    note('Values that differ from the defaults there (identityTrustDomain, …) have to be given here too.');
    return {};
  }
  const stored = parse(configText(map, 'values') ?? '') as ValuesMap | null;
  return shared.reduce<ValuesMap>((values, [theirs, ours]) => {
    const found = lookUp(stored ?? {}, theirs);
    return found === undefined ? values : mergeValues(values, valuesOf(ours, found));
  }, {});
}
