// SPDX-License-Identifier: Apache-2.0
// `mesh uninstall-cni`: takes the mesh off all nodes. Unlike the other commands it changes the cluster itself, because
// the order matters and each step waits for all nodes. It can be called again at any time, also when the namespace of
// the mesh is gone.

import { parse } from 'yaml';
import { cniObjects } from '../../install/cni.ts';
import { cniValues } from '../../install/cni-values-table.ts';
import { CNI_CONFIG_MAP } from '../../install/objects/agent.ts';
import { COMPONENT_LABEL } from '../../install/objects/common.ts';
import { removal, REMOVAL_NAME, REMOVAL_NAMESPACE } from '../../install/objects/removal.ts';
import { renderObjects } from '../../install/render-objects.ts';
import { checkValues, lookUp, mergeValues, type ValuesMap, valuesOf } from '../../install/values.ts';
import { type Cluster, type ClusterObject, configText } from './cluster.ts';
import { isOurs } from './definitions.ts';
import { objectPath, workloadKinds } from './owned.ts';
import { Refusal } from './refusal.ts';
import { refuseWhileUsed } from './uninstall.ts';

export interface UninstallCniArguments {
  readonly cluster: Cluster;
  readonly namespace: string;
  readonly force: boolean;
  /** What the command line says over the values of what is installed. */
  readonly change: (base: ValuesMap) => Promise<ValuesMap>;
  readonly version: string;
  /** For all steps together. */
  readonly waitMs: number;
  readonly nowMs: () => number;
  readonly sleep: (ms: number) => Promise<unknown>;
  readonly note: (line: string) => void;
}

const POLL_MS = 1_000;
const REMOVAL_PATH = `/apis/apps/v1/namespaces/${REMOVAL_NAMESPACE}/daemonsets/${REMOVAL_NAME}`;

interface DaemonSetObject extends ClusterObject {
  readonly metadata: ClusterObject['metadata'] & { readonly generation?: number };
  readonly status?: {
    readonly observedGeneration?: number;
    readonly desiredNumberScheduled?: number;
    readonly numberReady?: number;
    readonly updatedNumberScheduled?: number;
  };
}

interface RemovalPod extends ClusterObject {
  readonly spec?: { readonly nodeName?: string };
  readonly status?: {
    readonly initContainerStatuses?: readonly {
      readonly name: string;
      readonly state?: { readonly terminated?: { readonly exitCode: number } };
    }[];
  };
}

export async function uninstallCni(options: UninstallCniArguments): Promise<void> {
  const { cluster, namespace, version, note } = options;
  if (!options.force) await refuseWhileUsed(cluster, namespace);
  const { values } = checkValues(await options.change(await installedValues(cluster, namespace)), cniValues);
  const deadlineMs = options.nowMs() + options.waitMs;
  const until = async (look: () => Promise<string | undefined>): Promise<void> => {
    for (;;) {
      const missing = await look();
      if (missing === undefined) return;
      if (options.nowMs() >= deadlineMs) {
        throw new Refusal(
          `Gave up waiting: ${missing}.\nSee \`kubectl -n ${REMOVAL_NAMESPACE} describe daemonset ${REMOVAL_NAME}\`; run the command again to go on.`,
        );
      }
      await options.sleep(POLL_MS);
    }
  };

  note('Taking the CNI plugin out of the chain of every node...');
  const context = { values, namespace, creator: `nodemesh/cli ${version}` };
  for (const object of renderObjects([removal], context)) await cluster.apply(REMOVAL_PATH, object);
  await until(() => unchained(cluster));

  note('Removing agents and keepers...');
  for (const object of cniObjects({ values, namespace, version }).toReversed()) {
    const kind = workloadKinds.find((one) => one.kind === object.kind);
    if (kind === undefined) throw new Error(`unknown kind ${object.kind}`);
    const path = objectPath(kind, namespace, object.metadata.name);
    const found = await cluster.get(path);
    if (found !== undefined && isOurs(found)) await cluster.remove(path);
  }

  note('Waiting for their end; removing what they left on the nodes...');
  await until(() => finished(cluster));
  await cluster.remove(REMOVAL_PATH);
  await until(async () =>
    (await cluster.get(REMOVAL_PATH)) === undefined ? undefined : `DaemonSet ${REMOVAL_NAME} is still there`,
  );
  note('Nothing of nodemesh is left on the nodes.');
}

/** With them the removal finds the folders and an image that the nodes can get. */
async function installedValues(cluster: Cluster, namespace: string): Promise<ValuesMap> {
  const map = await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/${CNI_CONFIG_MAP}`);
  if (map === undefined || !isOurs(map)) return {};
  const stored = (parse(configText(map, 'values') ?? '') as ValuesMap | null) ?? {};
  // Another version may have values that this one does not know.
  return [...cniValues.fields.keys()].reduce<ValuesMap>((values, path) => {
    const found = lookUp(stored, path);
    return found === undefined ? values : mergeValues(values, valuesOf(path, found));
  }, {});
}

const removalOf = async (cluster: Cluster): Promise<DaemonSetObject | undefined> =>
  (await cluster.get(REMOVAL_PATH)) as DaemonSetObject | undefined;

/** How many nodes there are; undefined until the controller has looked. */
function wanted(found: DaemonSetObject | undefined): number | undefined {
  const { status, metadata } = found ?? {};
  if (status?.observedGeneration === undefined || status.observedGeneration < (metadata?.generation ?? 1))
    return undefined;
  return status.desiredNumberScheduled ?? 0;
}

async function unchained(cluster: Cluster): Promise<string | undefined> {
  const nodes = wanted(await removalOf(cluster));
  if (nodes === undefined) return `DaemonSet ${REMOVAL_NAME} was not looked at so far`;
  const pods = ((await cluster.list('/api/v1/pods', `${COMPONENT_LABEL}=cni-removal`)) ??
    []) as readonly RemovalPod[];
  const done = pods.filter(
    ({ status }) =>
      status?.initContainerStatuses?.find(({ name }) => name === 'unchain')?.state?.terminated?.exitCode ===
      0,
  );
  if (done.length >= nodes) return undefined;
  const late = pods.filter((pod) => !done.includes(pod)).map(({ spec }) => spec?.nodeName ?? '?');
  return `the CNI plugin is out of the chain of ${done.length} of ${nodes} nodes${late.length === 0 ? '' : `, not of ${late.join(', ')}`}`;
}

async function finished(cluster: Cluster): Promise<string | undefined> {
  const found = await removalOf(cluster);
  const nodes = wanted(found);
  const ready = found?.status?.numberReady ?? 0;
  return nodes !== undefined && ready >= nodes ? undefined : `${ready} of ${nodes ?? '?'} nodes are done`;
}
