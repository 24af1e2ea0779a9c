// SPDX-License-Identifier: Apache-2.0
// Whether the cluster can take the mesh: reachable, new enough, CRDs, rights of the person who installs, nodes, clocks.

import { readVersionOf, definitions, nameOf } from '../../install/crds/definitions.ts';
import { type Category, type Check, listProblem, Problem, type Scene } from './check.ts';
import { conditionOf, listOf, type NodeObject } from './objects.ts';

const KUBERNETES_MIN = [1, 30] as const;
const KERNEL_MIN = [5, 15] as const;
/** A node says that it is alive every five minutes at least. */
const HEARTBEAT_MS = 310_000;
const DEFINITIONS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';

interface VersionAnswer {
  readonly gitVersion?: string;
}

const versionOf = async ({ cluster }: Scene): Promise<string> => {
  const answer = (await cluster.get('/version')) as VersionAnswer | undefined;
  if (answer?.gitVersion === undefined) throw new Problem('the API server does not say its version');
  return answer.gitVersion;
};

/** `v1.34.4+k3s1` or `6.1.0-13-amd64`: the first two numbers. */
const atLeast = (text: string, [major, minor]: readonly [number, number]): boolean => {
  const [, ownMajor, ownMinor] = /^v?(\d+)\.(\d+)/.exec(text) ?? [];
  return Number(ownMajor) > major || (Number(ownMajor) === major && Number(ownMinor) >= minor);
};

export const kubernetesApi: Category = {
  name: 'kubernetes-api',
  checks: [
    {
      text: 'can query the Kubernetes API',
      anchor: 'k8s-api',
      kind: 'fatal',
      look: async (scene) => void (await versionOf(scene)),
    },
  ],
};

export const kubernetesVersion: Category = {
  name: 'kubernetes-version',
  checks: [
    {
      text: 'is running the minimum Kubernetes API version',
      anchor: 'k8s-version',
      async look(scene) {
        const version = await versionOf(scene);
        if (atLeast(version, KUBERNETES_MIN)) return;
        throw new Problem(
          `Kubernetes is on version [${version}], but version [${KUBERNETES_MIN.join('.')}] or more recent is required`,
        );
      },
    },
  ],
};

interface Right {
  readonly plural: string;
  readonly group: string;
  /** What people call them. */
  readonly kind: string;
  readonly verb: 'create' | 'get';
  readonly clusterWide?: true;
}

const right = (kind: string, group: string, more: Partial<Right> = {}): Right => ({
  plural: `${kind.toLowerCase()}s`,
  group,
  kind: `${kind}s`,
  verb: 'create',
  ...more,
});

const installRights: readonly Right[] = [
  right('Namespace', '', { clusterWide: true }),
  right('ClusterRole', 'rbac.authorization.k8s.io', { clusterWide: true }),
  right('ClusterRoleBinding', 'rbac.authorization.k8s.io', { clusterWide: true }),
  right('CustomResourceDefinition', 'apiextensions.k8s.io', { clusterWide: true }),
  right('ValidatingWebhookConfiguration', 'admissionregistration.k8s.io', { clusterWide: true }),
  right('ServiceAccount', ''),
  right('Service', ''),
  right('Deployment', 'apps'),
  right('DaemonSet', 'apps'),
  right('ConfigMap', ''),
  right('Secret', ''),
  right('Secret', '', { verb: 'get' }),
];

interface AccessReview {
  readonly status?: { readonly allowed?: boolean; readonly reason?: string };
}

const rightCheck = ({ plural, group, kind, verb, clusterWide }: Right): Check => ({
  text: `can ${verb === 'get' ? 'read' : 'create'} ${kind}`,
  anchor: clusterWide === true ? 'pre-k8s-cluster-k8s' : 'pre-k8s',
  async look({ cluster, namespace }) {
    const answer = (await cluster.ask('/apis/authorization.k8s.io/v1/selfsubjectaccessreviews', {
      apiVersion: 'authorization.k8s.io/v1',
      kind: 'SelfSubjectAccessReview',
      spec: {
        resourceAttributes: {
          verb,
          group,
          resource: plural,
          ...(clusterWide === true ? {} : { namespace }),
        },
      },
    })) as unknown as AccessReview;
    if (answer.status?.allowed === true) return;
    const reason = answer.status?.reason ?? '';
    throw new Problem(`not authorized to ${verb} ${plural}${reason === '' ? '' : `: ${reason}`}`);
  },
});

const nodesOf = ({ cluster }: Scene): Promise<readonly NodeObject[]> =>
  listOf<NodeObject>(cluster, '/api/v1/nodes');

export const preInstall: Category = {
  name: 'pre-kubernetes-setup',
  checks: [
    {
      text: 'control plane namespace does not already exist',
      anchor: 'pre-ns',
      async look({ cluster, namespace }) {
        if ((await cluster.get(`/api/v1/namespaces/${namespace}`)) !== undefined)
          throw new Problem(`The "${namespace}" namespace already exists`);
      },
    },
    ...installRights.map(rightCheck),
    {
      text: 'nodes run a kernel that the agent can use',
      anchor: 'pre-kernel',
      async look(scene) {
        const unfit = (await nodesOf(scene)).flatMap(({ metadata, status }) => {
          const { operatingSystem = '', architecture = '', kernelVersion = '' } = status?.nodeInfo ?? {};
          // No agent is put there.
          if (operatingSystem !== 'linux') return [];
          if (!['amd64', 'arm64'].includes(architecture)) return [`${metadata.name}: ${architecture}`];
          return atLeast(kernelVersion, KERNEL_MIN) ? [] : [`${metadata.name}: Linux ${kernelVersion}`];
        });
        if (unfit.length > 0)
          throw listProblem(`Linux ${KERNEL_MIN.join('.')} or newer on amd64 or arm64 is required:`, unfit);
      },
    },
    {
      text: 'no clock skew detected',
      anchor: 'pre-k8s-clock-skew',
      kind: 'warning',
      async look(scene) {
        const skewed = (await nodesOf(scene)).filter((node) => {
          const ready = conditionOf(node, 'Ready');
          const beatMs = Date.parse(ready?.lastHeartbeatTime ?? '');
          return ready?.status === 'True' && Math.abs(scene.wallMs() - beatMs) > HEARTBEAT_MS;
        });
        if (skewed.length > 0) {
          const names = skewed.map(({ metadata }) => metadata.name);
          throw new Problem(`clock skew detected for node(s): ${names.join(', ')}`);
        }
      },
    },
  ],
};

interface DefinitionObject {
  readonly spec?: { readonly versions?: readonly { readonly name: string; readonly served: boolean }[] };
}

export const customResources: Category = {
  name: 'linkerd-crd',
  checks: [
    {
      text: 'control plane CustomResourceDefinitions exist',
      anchor: 'l5d-existence-crd',
      kind: 'fatal',
      retry: true,
      async look({ cluster }) {
        const faults: string[] = [];
        for (const definition of definitions) {
          const name = nameOf(definition);
          const version = readVersionOf(definition);
          const found = (await cluster.get(`${DEFINITIONS}/${name}`)) as DefinitionObject | undefined;
          if (found === undefined) faults.push(`missing ${name}`);
          else if (found.spec?.versions?.some((one) => one.name === version && one.served) !== true)
            faults.push(`CRD ${name} is missing version ${version}`);
        }
        if (faults.length > 0) throw new Problem(faults.join(', '));
      },
    },
  ],
};
