// SPDX-License-Identifier: Apache-2.0
// Whether the control plane is there as it was installed, runs, and runs one version.

import { parse } from 'yaml';
import { networkContains, parseIp, parseNetwork } from '#lib/core/addresses.ts';
import { controlPlaneObjects } from '../../install/manifest.ts';
import { CONFIG_MAP } from '../../install/objects/config.ts';
import { CONTROL_PLANE_LABEL } from '../../install/objects/common.ts';
import type { KubernetesObject } from '../../install/render-objects.ts';
import {
  defaultValues,
  lookUp,
  mergeValues,
  textAt,
  type ValuesMap,
  valuesOf,
} from '../../install/values.ts';
import { type ClusterObject, configText } from '../install/cluster.ts';
import { isOurs } from '../install/definitions.ts';
import { clusterKinds, type KindPath, objectPath, workloadKinds } from '../install/owned.ts';
import { type Category, type Check, listProblem, Problem, type Scene } from './check.ts';
import { conditionOf, listOf, type NodeObject, type PodObject, podName, requireAll } from './objects.ts';

interface DeploymentObject extends ClusterObject {
  readonly status?: {
    readonly availableReplicas?: number;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly message?: string;
    }[];
  };
}

interface ServiceObject extends ClusterObject {
  readonly spec?: { readonly clusterIP?: string };
}

/** The values of the installation, as it stored them. */
export async function installedValues({ cluster, namespace }: Scene): Promise<ValuesMap> {
  const map = await cluster.get(`/api/v1/namespaces/${namespace}/configmaps/${CONFIG_MAP}`);
  if (map === undefined) throw new Problem(`configmaps "${CONFIG_MAP}" not found in namespace ${namespace}`);
  if (!isOurs(map)) throw new Problem(`ConfigMap/${CONFIG_MAP} in namespace ${namespace} belongs to Linkerd`);
  return (parse(configText(map, 'values') ?? '') as ValuesMap | null) ?? {};
}

/** What an installation with its values has; what is secret plays no part in that. Rendered once for a run. */
const rendered = new WeakMap<Scene, readonly KubernetesObject[]>();

async function installedNames(scene: Scene, kind: string): Promise<readonly string[]> {
  let objects = rendered.get(scene);
  if (objects === undefined) {
    const stored = mergeValues(defaultValues, await installedValues(scene));
    const secrets = ['identityTrustAnchorsPEM', 'identity.issuer.tls.crtPEM', 'identity.issuer.tls.keyPEM'];
    const values = secrets.reduce<ValuesMap>((all, path) => mergeValues(all, valuesOf(path, '-')), stored);
    objects = controlPlaneObjects({ values, namespace: scene.namespace, version: scene.version });
    rendered.set(scene, objects);
  }
  return objects.filter((object) => object.kind === kind).map(({ metadata }) => metadata.name);
}

const exist = (kind: string, anchor: string): Check => ({
  text: `control plane ${kind}s exist`,
  anchor,
  kind: 'fatal',
  async look(scene) {
    const { path, inside } = [...clusterKinds, ...workloadKinds].find((one) => one.kind === kind) as KindPath;
    const namespaced = inside === true || kind === 'Role' || kind === 'RoleBinding';
    await requireAll(
      scene.cluster,
      `${kind}s`,
      (name) =>
        namespaced ? objectPath({ apiVersion: '', kind, path }, scene.namespace, name) : `${path}/${name}`,
      await installedNames(scene, kind),
    );
  },
});

export const installedObjects: Category = {
  name: 'linkerd-config',
  checks: [
    {
      text: 'control plane Namespace exists',
      anchor: 'l5d-existence-ns',
      kind: 'fatal',
      async look({ cluster, namespace }) {
        if ((await cluster.get(`/api/v1/namespaces/${namespace}`)) === undefined)
          throw new Problem(`The "${namespace}" namespace does not exist`);
      },
    },
    {
      text: `'${CONFIG_MAP}' config map exists`,
      anchor: 'l5d-existence-linkerd-config',
      kind: 'fatal',
      look: async (scene) => void (await installedValues(scene)),
    },
    exist('ClusterRole', 'l5d-existence-cr'),
    exist('ClusterRoleBinding', 'l5d-existence-crb'),
    exist('Role', 'l5d-existence-role'),
    exist('RoleBinding', 'l5d-existence-rb'),
    exist('ServiceAccount', 'l5d-existence-sa'),
    exist('Service', 'l5d-existence-svc'),
    exist('ValidatingWebhookConfiguration', 'l5d-existence-vwc'),
  ],
};

const podsOf = async ({ cluster, namespace }: Scene): Promise<readonly PodObject[]> =>
  (await listOf<PodObject>(cluster, '/api/v1/pods')).filter(
    ({ metadata }) => metadata.namespace === namespace,
  );

/** Of a Deployment of the control plane: its pods have its name before theirs. */
const belongsTo = (pod: ClusterObject, deployment: string): boolean =>
  new RegExp(`^${deployment}-[a-z0-9]+-[a-z0-9]+$`).test(pod.metadata.name);

const deploymentPath = (namespace: string, name: string): string =>
  `/apis/apps/v1/namespaces/${namespace}/deployments/${name}`;

/** Addresses outside of the cluster's networks: of them, policies for the cluster would refuse connections. */
async function outside(scene: Scene, addresses: readonly (readonly [string, string])[]): Promise<string[]> {
  const networks = textAt(await installedValues(scene), 'clusterNetworks')
    .split(',')
    .flatMap((text) => parseNetwork(text.trim()) ?? []);
  return addresses.flatMap(([name, text]) => {
    const ip = parseIp(text);
    const known = ip === undefined || networks.some((network) => networkContains(network, ip));
    return known ? [] : [`${name} (${text})`];
  });
}

const insideNetworks = (
  what: string,
  anchor: string,
  addressesOf: (scene: Scene) => Promise<readonly (readonly [string, string])[]>,
): Check => ({
  text: `cluster networks contains all ${what}`,
  anchor,
  async look(scene) {
    const addresses = await addressesOf(scene);
    if (addresses.length === 0) return 'not applicable';
    const strangers = await outside(scene, addresses);
    if (strangers.length > 0)
      throw listProblem(`the value clusterNetworks does not contain these ${what}:`, strangers);
    return undefined;
  },
});

export const existence: Category = {
  name: 'linkerd-existence',
  checks: [
    exist('Deployment', 'l5d-existence-deploy'),
    {
      text: 'control plane replica sets are ready',
      anchor: 'l5d-existence-replicasets',
      kind: 'fatal',
      retry: true,
      async look(scene) {
        for (const name of await installedNames(scene, 'Deployment')) {
          const found = (await scene.cluster.get(deploymentPath(scene.namespace, name))) as
            | DeploymentObject
            | undefined;
          const failure = found === undefined ? undefined : conditionOf(found as PodObject, 'ReplicaFailure');
          if (failure?.status === 'True')
            throw new Problem(`${name}: ${failure.message ?? 'ReplicaFailure'}`);
        }
      },
    },
    {
      text: 'no unschedulable pods',
      anchor: 'l5d-existence-unschedulable-pods',
      kind: 'warning',
      retry: true,
      async look(scene) {
        const waiting = (await podsOf(scene)).flatMap((pod) => {
          const scheduled = conditionOf(pod, 'PodScheduled');
          return scheduled?.status === 'False' && scheduled.reason === 'Unschedulable'
            ? [`${pod.metadata.name}: ${scheduled.message ?? ''}`]
            : [];
        });
        if (waiting.length > 0) throw new Problem(waiting.join('\n'));
      },
    },
    {
      text: 'control plane pods are ready',
      anchor: 'l5d-api-control-ready',
      kind: 'fatal',
      retry: true,
      async look(scene) {
        const pods = (await podsOf(scene)).filter(({ status }) => status?.phase === 'Running');
        for (const name of await installedNames(scene, 'Deployment')) {
          const own = pods.filter((pod) => belongsTo(pod, name));
          if (own.length === 0) throw new Problem(`No running pods for "${name}"`);
          if (own.some((pod) => pod.status?.containerStatuses?.every(({ ready }) => ready) === true))
            continue;
          const [pod] = own;
          const container = pod?.status?.containerStatuses?.find(({ ready }) => !ready)?.name ?? '';
          throw new Problem(`pod/${pod?.metadata.name ?? ''} container ${container} is not ready`);
        }
      },
    },
    insideNetworks('node podCIDRs', 'l5d-cluster-networks-cidr', async ({ cluster }) =>
      (await listOf<NodeObject>(cluster, '/api/v1/nodes')).flatMap(({ metadata, spec }) =>
        (spec?.podCIDRs ?? []).map((cidr) => [metadata.name, cidr.split('/')[0] ?? ''] as const),
      ),
    ),
    insideNetworks('pods', 'l5d-cluster-networks-pods', async ({ cluster }) =>
      (await listOf<PodObject>(cluster, '/api/v1/pods'))
        .filter(({ spec, status }) => spec?.hostNetwork !== true && status?.phase === 'Running')
        .map((pod) => [podName(pod), pod.status?.podIP ?? ''] as const),
    ),
    insideNetworks('services', 'l5d-cluster-networks-pods', async ({ cluster }) =>
      (await listOf<ServiceObject>(cluster, '/api/v1/services')).map(
        (service) => [podName(service), service.spec?.clusterIP ?? ''] as const,
      ),
    ),
  ],
};

const imageVersion = (image: string): string => (image.includes('@') ? '' : (image.split(':').at(-1) ?? ''));

/** Containers of the mesh's pods by the version that they run; without one where an image is named by its digest. */
async function versions(scene: Scene): Promise<readonly (readonly [string, string])[]> {
  return (await podsOf(scene))
    .filter(({ metadata }) => metadata.labels?.[CONTROL_PLANE_LABEL] === scene.namespace)
    .map((pod) => [pod.metadata.name, imageVersion(pod.spec?.containers?.[0]?.image ?? '')] as const)
    .filter(([, version]) => version !== '');
}

const sameVersion = (text: string, anchor: string, wanted: (scene: Scene) => string): Check => ({
  text,
  anchor,
  kind: 'warning',
  async look(scene) {
    const expected = wanted(scene);
    if (expected === '') return 'not applicable';
    const others = (await versions(scene)).filter(([, version]) => version !== expected);
    if (others.length > 0) {
      throw listProblem(
        `some pods do not run ${expected}:`,
        others.map(([name, version]) => `${name} (${version})`),
      );
    }
    return undefined;
  },
});

export const cliVersion: Category = {
  name: 'linkerd-version',
  checks: [
    {
      text: 'cli is up-to-date',
      anchor: 'l5d-version-cli',
      kind: 'warning',
      look({ version, expectedVersion }) {
        if (expectedVersion === '') return Promise.resolve('not applicable');
        return expectedVersion === version
          ? Promise.resolve()
          : Promise.reject(
              new Problem(`is running version ${version} but the latest version is ${expectedVersion}`),
            );
      },
    },
  ],
};

export const controlPlaneVersion: Category = {
  name: 'control-plane-version',
  checks: [
    sameVersion('control plane is up-to-date', 'l5d-version-control', (scene) => scene.expectedVersion),
    sameVersion('control plane and cli versions match', 'l5d-version-control', (scene) => scene.version),
  ],
};

export const highAvailability: Category = {
  name: 'linkerd-ha-checks',
  checks: [
    {
      text: 'multiple replicas of control plane pods',
      anchor: 'l5d-control-plane-replicas',
      kind: 'warning',
      retry: true,
      async look(scene) {
        if (Number(lookUp(await installedValues(scene), 'controllerReplicas')) < 2) return 'not applicable';
        const few: string[] = [];
        for (const name of await installedNames(scene, 'Deployment')) {
          const found = (await scene.cluster.get(deploymentPath(scene.namespace, name))) as
            | DeploymentObject
            | undefined;
          if ((found?.status?.availableReplicas ?? 0) < 2) few.push(name);
        }
        if (few.length > 0) throw new Problem(`not enough replicas available for [${few.join(' ')}]`);
        return undefined;
      },
    },
  ],
};
