// SPDX-License-Identifier: Apache-2.0
// A test's handle on a cluster that is up (make cluster-up): kubectl, objects, pods, the machines and their programs,
// and a kubeconfig that works outside the cluster's namespaces. CLUSTER=name chooses one.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CommandOptions, CommandResult } from '../../local/command.ts';
import { until } from '../faults/until.ts';
import { kubectl, kubectlArgv, tryKubectl } from '../kind/kubectl.ts';
import { type ClusterLayout, DEFAULT_NAME, type MachineLayout } from '../kind/layout.ts';
import {
  checkedInMachine,
  killPart,
  partLog,
  partRuns,
  requireMachinePid,
  runInMachine,
  startPart,
} from '../kind/machine.ts';
import { requireCluster } from '../kind/notes.ts';
import { type ControlPart, controlPart, type NodePart, nodePart } from '../kind/parts.ts';

export const PATIENCE_MS = 180_000;

/** As the API server has it; a test knows which fields it looks at. */
export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly deletionTimestamp?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly [field: string]: unknown;
}

/** The control plane's machine or a node, with the programs that run on it. */
export interface Machine<Part extends string> {
  readonly name: string;
  readonly address: string;
  /** Its root file system, as seen from outside. */
  readonly root: string;
  readonly pid: number;
  run(argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Must succeed; its output. */
  output(argv: readonly string[], options?: CommandOptions): Promise<string>;
  kill(part: Part, signal?: string): Promise<void>;
  start(part: Part): Promise<void>;
  runs(part: Part): Promise<boolean>;
  log(part: Part): string;
}

export interface PodPlace {
  readonly namespace: string;
  readonly pod: string;
  readonly container?: string;
}

export interface Cluster {
  readonly layout: ClusterLayout;
  readonly control: Machine<ControlPart>;
  readonly nodes: readonly Machine<NodePart>[];
  /** A file; its server is reached through this process, as long as the handle is open. */
  readonly kubeconfig: string;
  /** Must succeed; its output. */
  kubectl(args: readonly string[], options?: CommandOptions): Promise<string>;
  tryKubectl(args: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** For a child process of one's own: log -f, port-forward, watch. */
  kubectlArgv(args: readonly string[]): string[];
  get<T extends KubernetesObject>(args: readonly string[]): Promise<T>;
  list<T extends KubernetesObject>(args: readonly string[]): Promise<readonly T[]>;
  apply(objects: readonly object[]): Promise<void>;
  /** A new one, whose pods can start; removed when the handle is closed. */
  makeNamespace(name: string, labels?: Readonly<Record<string, string>>): Promise<void>;
  waitFor<T>(what: string, ask: () => Promise<T | undefined | false>, timeoutMs?: number): Promise<T>;
  /** Exactly so many of them are there, each ready and none told to end. */
  podsReady(namespace: string, selector: string, count: number): Promise<readonly KubernetesObject[]>;
  /** Its ClusterIP. */
  serviceAddress(namespace: string, name: string): Promise<string>;
  exec(place: PodPlace, argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  logs(place: PodPlace): Promise<string>;
  /**
   * For the end of a test in which the API server was away: scheduler, kubelets and kube-proxies look for it again in their
   * own time, up to a minute later, and know no new service until then, which pods would not learn of, either. What starts
   * looks at once.
   */
  startWatchersAnew(): Promise<void>;
  close(): Promise<void>;
}

function machineOf<Part extends string>(
  layout: MachineLayout,
  partOf: (name: Part) => Parameters<typeof startPart>[1],
): Machine<Part> {
  return {
    name: layout.name,
    address: layout.address,
    root: layout.root,
    get pid() {
      return requireMachinePid(layout);
    },
    run: (argv, options) => runInMachine(layout, argv, options),
    output: (argv, options) => checkedInMachine(layout, argv, options),
    kill: (part, signal) => killPart(layout, part, signal),
    start: (part) => startPart(layout, partOf(part)),
    runs: (part) => partRuns(layout, part),
    log: (part) => readFileSync(partLog(layout, part), 'utf8'),
  };
}

/** Carries connections from a port of this process to the API server's socket: namespaces do not divide files. */
async function serveApi(layout: ClusterLayout): Promise<{ server: Server; sockets: Set<Socket> }> {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(layout.apiSocket);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
      one.on('error', () => other.destroy());
      one.pipe(other);
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.on('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return { server, sockets };
}

export async function openCluster(name = process.env['CLUSTER'] ?? DEFAULT_NAME): Promise<Cluster> {
  const layout = requireCluster(name);
  const { server, sockets } = await serveApi(layout);
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-cluster-'));
  const kubeconfig = join(folder, 'kubeconfig');
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  writeFileSync(kubeconfig, readFileSync(layout.kubeconfig, 'utf8').replace(layout.apiUrl, url), {
    mode: 0o600,
  });
  const namespaces: string[] = [];

  const cluster: Cluster = {
    layout,
    kubeconfig,
    control: machineOf<ControlPart>(layout.control, (part) => controlPart(layout, part)),
    nodes: layout.nodes.map((node) => machineOf<NodePart>(node, (part) => nodePart(node, part))),
    kubectl: (args, options) => kubectl(layout, args, options),
    tryKubectl: (args, options) => tryKubectl(layout, args, options),
    kubectlArgv: (args) => kubectlArgv(layout, args),
    get: async <T extends KubernetesObject>(args: readonly string[]) =>
      JSON.parse(await kubectl(layout, ['get', '--output=json', ...args])) as T,
    list: async <T extends KubernetesObject>(args: readonly string[]) =>
      (JSON.parse(await kubectl(layout, ['get', '--output=json', ...args])) as { items: readonly T[] }).items,
    async apply(objects) {
      const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
      await kubectl(layout, ['apply', '--filename=-'], { input });
    },
    async makeNamespace(namespace, labels = {}) {
      namespaces.push(namespace);
      // One that an earlier run left is still being removed.
      await kubectl(layout, ['delete', 'namespace', namespace, '--ignore-not-found', '--wait']);
      await cluster.apply([{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace, labels } }]);
      // Without the first a pod cannot be made; without the second the kubelet cannot mount its token, and tries again later.
      const given = ['serviceaccount/default', 'configmap/kube-root-ca.crt'];
      await cluster.waitFor(`the service account and the CA of ${namespace}`, async () => {
        return (await tryKubectl(layout, [`--namespace=${namespace}`, 'get', ...given])).code === 0;
      });
    },
    waitFor: (what, ask, timeoutMs = PATIENCE_MS) => until(what, timeoutMs, ask),
    podsReady: (namespace, selector, count) =>
      cluster.waitFor(`${count} ready pods with ${selector}`, async () => {
        const pods = await cluster.list(['pods', '--namespace', namespace, '--selector', selector]);
        const ready = pods.filter((pod) => isReady(pod) && !isEnding(pod));
        return ready.length === count && pods.length === count ? ready : undefined;
      }),
    async serviceAddress(namespace, name) {
      const { spec } = await cluster.get<KubernetesObject & { spec: { clusterIP: string } }>([
        'service',
        name,
        `--namespace=${namespace}`,
      ]);
      return spec.clusterIP;
    },
    exec: ({ namespace, pod, container }, argv, options) =>
      tryKubectl(
        layout,
        [
          'exec',
          ...(options?.input === undefined ? [] : ['--stdin']),
          `--namespace=${namespace}`,
          ...(container === undefined ? [] : [`--container=${container}`]),
          pod,
          '--',
          ...argv,
        ],
        options,
      ),
    logs: ({ namespace, pod, container }) =>
      kubectl(layout, [
        'logs',
        `--namespace=${namespace}`,
        pod,
        ...(container === undefined ? [] : [container]),
      ]),
    async startWatchersAnew() {
      await cluster.control.kill('kube-scheduler');
      await cluster.control.start('kube-scheduler');
      for (const node of cluster.nodes)
        for (const part of ['kubelet', 'kube-proxy'] as const) {
          await node.kill(part);
          await node.start(part);
        }
    },
    async close() {
      // Their removal goes on by itself: the next user of a name waits for it.
      if (namespaces.length > 0)
        await kubectl(layout, ['delete', 'namespace', '--ignore-not-found', '--wait=false', ...namespaces]);
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      rmSync(folder, { recursive: true, force: true });
    },
  };
  return cluster;
}

/** Told to end, or gone but for its name. */
export const isEnding = ({ metadata }: KubernetesObject): boolean => metadata.deletionTimestamp !== undefined;

interface PodStatus {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

export const isReady = (pod: KubernetesObject): boolean =>
  (pod as PodStatus).status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') ===
  true;
