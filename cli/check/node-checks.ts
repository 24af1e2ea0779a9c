// SPDX-License-Identifier: Apache-2.0
// What runs on the nodes: there, ready on each, and what each agent says of itself in its metrics, read through the API
// server.

import { AGENT_NAME, CNI_CONFIG_MAP, KEEPER_NAME } from '../../install/objects/agent.ts';
import { parseMetrics, type Sample } from '../demo/scrape.ts';
import type { ClusterObject } from '../install/cluster.ts';
import { type Category, type Check, type Look, listProblem, type Scene } from './check.ts';
import { conditionOf, listOf, type PodObject, requireAll, whyNotReady } from './objects.ts';

const ADMIN_PORT = 4191;

interface DaemonSetObject extends ClusterObject {
  readonly status?: { readonly desiredNumberScheduled?: number; readonly numberReady?: number };
}

const daemonSet = async ({ cluster, namespace }: Scene, name: string): Promise<DaemonSetObject | undefined> =>
  (await cluster.get(`/apis/apps/v1/namespaces/${namespace}/daemonsets/${name}`)) as
    | DaemonSetObject
    | undefined;

const podsOf = async ({ cluster, namespace }: Scene, name: string): Promise<readonly PodObject[]> =>
  (await listOf<PodObject>(cluster, '/api/v1/pods')).filter(
    ({ metadata }) => metadata.namespace === namespace && metadata.name.startsWith(`${name}-`),
  );

const onAllNodes = (name: string, text: string, anchor: string): Check => ({
  text,
  anchor,
  kind: 'fatal',
  retry: true,
  async look(scene) {
    const { desiredNumberScheduled = 0, numberReady = 0 } = (await daemonSet(scene, name))?.status ?? {};
    if (desiredNumberScheduled > 0 && numberReady >= desiredNumberScheduled) return;
    const unready = (await podsOf(scene, name)).filter((pod) => conditionOf(pod, 'Ready')?.status !== 'True');
    throw listProblem(
      `number ready: ${numberReady}, number scheduled: ${desiredNumberScheduled}`,
      unready.map((pod) => `${pod.spec?.nodeName ?? 'no node'}: ${whyNotReady(pod)}`),
    );
  },
});

const exists = (
  what: string,
  anchor: string,
  kind: string,
  plural: string,
  names: readonly string[],
): Check => ({
  text: `cni plugin ${what} exists`,
  anchor,
  kind: 'fatal',
  async look({ cluster, namespace }) {
    const [group = '', short = ''] = plural.split(' ');
    await requireAll(cluster, kind, (name) => `${group}/namespaces/${namespace}/${short}/${name}`, names);
  },
});

interface NodeAgent {
  readonly node: string;
  readonly samples: readonly Sample[];
}

/** Of each node the agent that has the role, and why there is none. */
async function agents(scene: Scene): Promise<{
  readonly answering: readonly NodeAgent[];
  readonly silent: readonly string[];
}> {
  const { cluster, namespace } = scene;
  const pods = (await podsOf(scene, AGENT_NAME)).filter(({ status }) => status?.phase === 'Running');
  const found = await Promise.all(
    pods.map(async (pod) => {
      const node = pod.spec?.nodeName ?? '';
      try {
        const path = `/api/v1/namespaces/${namespace}/pods/${pod.metadata.name}:${ADMIN_PORT}/proxy/metrics`;
        return { node, samples: parseMetrics(await cluster.text(path)) };
      } catch (error) {
        return { node, fault: `${node}: ${error instanceof Error ? error.message : String(error)}` };
      }
    }),
  );
  const answering = found.flatMap(({ node, samples }) => (samples === undefined ? [] : [{ node, samples }]));
  const answered = new Set(answering.map(({ node }) => node));
  return {
    // During an upgrade both pods of a node lead to the one that answers on its port.
    answering: answering.filter(
      ({ node }, index) => answering.findIndex((one) => one.node === node) === index,
    ),
    silent: found.flatMap(({ node, fault }) => (fault === undefined || answered.has(node) ? [] : [fault])),
  };
}

const sum = (
  samples: readonly Sample[],
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number =>
  samples
    .filter((one) => one.name === name && Object.entries(labels).every(([key, is]) => one.labels[key] === is))
    .reduce((total, { value }) => total + value, 0);

/** `fault`: what is wrong with one node's agent, '' if nothing is. */
const ofEach =
  (title: string, fault: (samples: readonly Sample[], scene: Scene) => string): Look =>
  async (scene) => {
    const faults = (await agents(scene)).answering.flatMap(({ node, samples }) => {
      const text = fault(samples, scene);
      return text === '' ? [] : [`${node}: ${text}`];
    });
    if (faults.length > 0) throw listProblem(title, faults);
  };

export const nodes: Category = {
  name: 'linkerd-cni-plugin',
  checks: [
    exists('ConfigMap', 'cni-plugin-cm-exists', 'ConfigMaps', '/api/v1 configmaps', [CNI_CONFIG_MAP]),
    exists('ServiceAccount', 'cni-plugin-sa-exists', 'ServiceAccounts', '/api/v1 serviceaccounts', [
      AGENT_NAME,
      KEEPER_NAME,
    ]),
    exists('DaemonSet', 'cni-plugin-ds-exists', 'DaemonSets', '/apis/apps/v1 daemonsets', [
      AGENT_NAME,
      KEEPER_NAME,
    ]),
    onAllNodes(KEEPER_NAME, 'keeper is running on all nodes', 'node-keeper-ready'),
    onAllNodes(AGENT_NAME, 'cni plugin pod is running on all nodes', 'cni-plugin-ready'),
  ],
};

export const nodeAgents: Category = {
  name: 'nodemesh-nodes',
  checks: [
    {
      text: 'agents answer through the API server',
      anchor: 'node-agent-answers',
      retry: true,
      async look(scene) {
        const { silent } = await agents(scene);
        if (silent.length > 0) throw listProblem('no metrics from these agents:', silent);
      },
    },
    {
      text: 'agents and cli versions match',
      anchor: 'node-agent-version',
      kind: 'warning',
      look: ofEach('some agents do not run the version of the cli:', (samples, { version }) => {
        const own = samples.find(({ name }) => name === 'proxy_build_info')?.labels['version'] ?? 'unknown';
        return own === version ? '' : own;
      }),
    },
    {
      text: 'agents are connected to the keeper of their node',
      anchor: 'node-keeper-connected',
      retry: true,
      look: ofEach(
        'these agents have no keeper: if they end, connects to pods of their node fail:',
        (samples) => (sum(samples, 'nodemesh_keeper_connected') > 0 ? '' : 'not connected'),
      ),
    },
    {
      text: 'agents find the kernel as it should be',
      anchor: 'node-self-check',
      look: ofEach('differences that the agent cannot mend:', (samples) => {
        const failures = sum(samples, 'nodemesh_self_check_failures');
        return failures === 0 ? '' : `${failures}`;
      }),
    },
    {
      text: 'agents can write their state to the disk of their node',
      anchor: 'node-state-written',
      kind: 'warning',
      look: ofEach('lists that could not be written:', (samples) => {
        const failures = sum(samples, 'nodemesh_state_write_failures_total');
        return failures === 0 ? '' : `${failures} times`;
      }),
    },
    {
      text: 'certificates of pods are renewed in time',
      anchor: 'node-pod-certificates',
      kind: 'warning',
      look: ofEach('certificates that have ended:', (samples, { wallMs }) => {
        const ended = samples.filter(
          ({ name, value }) =>
            name === 'control_identity_cert_expiration_timestamp_seconds' && value * 1000 < wallMs(),
        );
        return ended.map(({ labels }) => `${labels['namespace'] ?? ''}/${labels['pod'] ?? ''}`).join(', ');
      }),
    },
    {
      text: 'nodes are ready',
      anchor: 'node-ready',
      kind: 'warning',
      async look({ cluster }) {
        const unready = (await listOf<PodObject>(cluster, '/api/v1/nodes')).flatMap((node) => {
          const ready = conditionOf(node, 'Ready');
          return ready?.status === 'True'
            ? []
            : [`${node.metadata.name}: ${ready?.message ?? 'says nothing'}`];
        });
        if (unready.length > 0) throw listProblem('agents on these nodes may not be reached:', unready);
      },
    },
  ],
};
