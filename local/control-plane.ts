// SPDX-License-Identifier: Apache-2.0
// The mesh's own processes in a local mesh: keys and tokens, the objects that stand for them in the registry, and
// identity, destination and a keeper and an agent per node as supervised programs. What they do is theirs.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { tokenAudiences } from '#lib/registry/token-review.ts';
import { makeTokenKey } from '#lib/registry-folder/token-signer.ts';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { MANAGED_ANNOTATION } from './kubelet.ts';
import { CLUSTER_NETWORKS, type DualAddress, type MeshLayout, type NodeLayout } from './layout.ts';
import type { PodCondition, PodObject } from './objects.ts';
import type { Store } from './store.ts';
import { NodeAgent } from './node-agent.ts';
import { type Program, SupervisedProgram } from './supervise.ts';
import { type TokenFile, TokenFiles } from './token-files.ts';

export const INSTALL_NAMESPACE = 'nodemesh';
export const IDENTITY_NAMESPACE = 'linkerd';
export const TRUST_DOMAIN = 'cluster.local';
export const AGENT_ACCOUNT = 'nodemesh-agent';
const IDENTITY_ACCOUNT = 'linkerd-identity';
const DESTINATION_ACCOUNT = 'linkerd-destination';
const IDENTITY_PORT = 8080;
const DESTINATION_PORT = 8086;
const TOKEN_LIFETIME_MS = 24 * 3_600_000;
const ANCHOR_LIFETIME_MS = 365 * 24 * 3_600_000;
/** Clocks of programs on one machine agree; a day is for whoever sets a clock back. */
const BACKDATE_MS = 24 * 3_600_000;

export type ExtraEnv = Readonly<Record<string, string>>;

export interface Keys {
  readonly files: {
    readonly anchor: string;
    readonly anchorKey: string;
    readonly issuer: string;
    readonly issuerKey: string;
    readonly tokenKey: string;
  };
  readonly anchorPem: string;
  readonly tokens: TokenFiles;
}

/** Trust anchor, issuer and the key that signs tokens, new for each `up`. */
export async function makeKeys(layout: MeshLayout, clock: Clock): Promise<Keys> {
  mkdirSync(layout.keysDir, { recursive: true, mode: 0o700 });
  const authority = await makeAuthority({
    trustDomain: TRUST_DOMAIN,
    notBeforeMs: clock.wallMs() - BACKDATE_MS,
    anchorLifetimeMs: ANCHOR_LIFETIME_MS,
    issuerLifetimeMs: ANCHOR_LIFETIME_MS,
  });
  const tokenKey = makeTokenKey();
  const file = (name: string, text: string): string => {
    const path = join(layout.keysDir, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  return {
    files: {
      anchor: file('ca.crt', authority.anchorPem),
      anchorKey: file('ca.key', authority.anchorKeyPem),
      issuer: file('issuer.crt', authority.issuerPem),
      issuerKey: file('issuer.key', authority.issuerKeyPem),
      tokenKey: file('token.pub', tokenKey.publicKeyPem),
    },
    anchorPem: authority.anchorPem,
    tokens: new TokenFiles(clock, tokenKey.privateKeyPem),
  };
}

export const nodeReady = (ready: boolean, now: string): PodCondition => ({
  type: 'Ready',
  status: ready ? 'True' : 'False',
  lastTransitionTime: now,
});

/** `zones` of the nodes in their order; nodes beyond them have none. */
export function putNodes(store: Store, layout: MeshLayout, zones: readonly string[]): void {
  for (const [index, node] of layout.nodes.entries()) {
    const zone = zones[index];
    store.put({
      apiVersion: 'v1',
      kind: 'Node',
      metadata: store.newMeta({
        name: node.name,
        labels: {
          'kubernetes.io/hostname': node.name,
          'kubernetes.io/os': 'linux',
          ...(zone === undefined ? {} : { 'topology.kubernetes.io/zone': zone }),
        },
      }),
      spec: { podCIDR: node.podNetwork.v4, podCIDRs: [node.podNetwork.v4, node.podNetwork.v6] },
      status: {
        addresses: [
          { type: 'InternalIP', address: node.address.v4 },
          { type: 'InternalIP', address: node.address.v6 },
          { type: 'Hostname', address: node.name },
        ],
        conditions: [nodeReady(false, store.now())],
      },
    });
  }
}

interface Member {
  readonly namespace: string;
  readonly account: string;
  readonly podName: string;
  readonly address: DualAddress;
  /** Absent for the control plane, which runs beside the nodes. */
  readonly node?: NodeLayout;
}

/** The pod that a program's tokens are bound to. */
function putMember(store: Store, member: Member): PodObject {
  const { namespace, account, podName, address, node } = member;
  if (store.get('Namespace', '', namespace) === undefined) {
    store.put({
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: store.newMeta({ name: namespace, labels: { 'kubernetes.io/metadata.name': namespace } }),
    });
  }
  if (store.get('ServiceAccount', namespace, account) === undefined) {
    store.put({
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: store.newMeta({ name: account, namespace }),
    });
  }
  const now = store.now();
  const ips = [{ ip: address.v4 }, { ip: address.v6 }];
  const condition = (type: string) => ({ type, status: 'True' as const, lastTransitionTime: now });
  const pod: PodObject = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: store.newMeta({
      name: podName,
      namespace,
      labels: { app: account },
      annotations: { [MANAGED_ANNOTATION]: 'true' },
    }),
    spec: {
      containers: [
        {
          name: account,
          image: 'local',
          command: ['node'],
          args: [],
          env: [],
          ports: [],
          securityContext: {},
          volumeMounts: [],
        },
      ],
      initContainers: [],
      volumes: [],
      nodeSelector: {},
      nodeName: node?.name ?? 'control',
      serviceAccountName: account,
      automountServiceAccountToken: true,
      hostNetwork: true,
      restartPolicy: 'Always',
      terminationGracePeriodSeconds: 0,
      securityContext: { supplementalGroups: [] },
    },
    status: {
      phase: 'Running',
      hostIP: address.v4,
      hostIPs: ips,
      podIP: address.v4,
      podIPs: ips,
      startTime: now,
      conditions: ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'].map(condition),
      containerStatuses: [
        {
          name: account,
          image: 'local',
          ready: true,
          started: true,
          restartCount: 0,
          state: { running: { startedAt: now } },
        },
      ],
    },
  };
  store.put(pod);
  return pod;
}

export interface ControlPlaneOptions {
  readonly store: Store;
  readonly layout: MeshLayout;
  readonly keys: Keys;
  readonly clock: Clock;
  readonly log: Log;
  /** The project's folder: where the programs are. */
  readonly root: string;
  readonly logLevel: string;
  readonly agentEnv: ExtraEnv;
  readonly identityEnv: ExtraEnv;
  readonly destinationEnv: ExtraEnv;
  readonly keeperLimitMs: number;
  readonly agentOpenFilesMax?: number;
  /** What keeps the agent of a node from being ready; undefined: nothing. */
  readonly probeAgent: (node: NodeLayout) => Promise<string | undefined>;
}

export interface ControlPlane {
  /** The programs as they are now. */
  readonly programs: ReadonlyMap<string, SupervisedProgram>;
  agent(node: string): NodeAgent;
  /** Keeper and agents of the node end at once and for good. */
  powerOff(node: string): Promise<void>;
  powerOn(node: string): Promise<void>;
  close(): void;
}

export const agentProgramName = (node: string): string => `agent of ${node}`;
export const keeperProgramName = (node: string): string => `keeper of ${node}`;

/** Starts identity, destination, keepers and agents. */
export function startControlPlane(options: ControlPlaneOptions): ControlPlane {
  const { store, layout, keys, clock, log, root } = options;
  const programs = new Map<string, SupervisedProgram>();
  const stopTokens: (() => void)[] = [];
  const { v4: control } = layout.controlAddress;
  const identityName = (account: string): string =>
    `${account}.${INSTALL_NAMESPACE}.serviceaccount.identity.${IDENTITY_NAMESPACE}.${TRUST_DOMAIN}`;

  const token = (pod: PodObject, file: string, audience: string): string => {
    const namespace = pod.metadata.namespace ?? '';
    const account = store.require('ServiceAccount', namespace, pod.spec.serviceAccountName);
    const node = store.get('Node', '', pod.spec.nodeName ?? '');
    const path = join(layout.tokensDir, pod.metadata.name, file);
    const request: TokenFile = {
      path,
      audience,
      lifetimeMs: TOKEN_LIFETIME_MS,
      namespace,
      serviceAccount: { name: account.metadata.name, uid: account.metadata.uid },
      pod: { name: pod.metadata.name, uid: pod.metadata.uid },
      ...(node === undefined ? {} : { node: { name: node.metadata.name, uid: node.metadata.uid } }),
    };
    stopTokens.push(keys.tokens.keep(request));
    return path;
  };
  type Place = Pick<Program, 'netns' | 'cgroup' | 'logFile'>;
  const run = (program: Program): SupervisedProgram => new SupervisedProgram(program, clock, log);
  const nodeProgram = (name: string, main: string, place: Place, env: ExtraEnv): Program => {
    const argv = [process.execPath, join(root, main)];
    const basis = {
      PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin',
      HOME: '/root',
      // As the images have it: without what was compiled before, each thread of an agent costs 25 MB more.
      NODE_COMPILE_CACHE: join(root, 'build', 'compile-cache'),
    };
    return { name, argv, env: { ...basis, ...env }, ...place };
  };
  const start = (name: string, main: string, place: Place, env: ExtraEnv): void => {
    programs.set(name, run(nodeProgram(name, main, place, env)));
  };
  const shared: ExtraEnv = {
    NODEMESH_TRUST_DOMAIN: TRUST_DOMAIN,
    NODEMESH_IDENTITY_NAMESPACE: IDENTITY_NAMESPACE,
    NODEMESH_NAMESPACE: INSTALL_NAMESPACE,
    NODEMESH_TRUST_ANCHORS_FILE: keys.files.anchor,
    NODEMESH_LOG_LEVEL: options.logLevel,
  };
  const services: ExtraEnv = {
    ...shared,
    NODEMESH_REGISTRY: `folder:${layout.registryDir}`,
    NODEMESH_TOKEN_KEY_FILE: keys.files.tokenKey,
    NODEMESH_AGENT_SERVICE_ACCOUNT: AGENT_ACCOUNT,
  };

  // All objects first, so that nobody asks for one that is about to come.
  const controlMember = { namespace: INSTALL_NAMESPACE, address: layout.controlAddress };
  putMember(store, { ...controlMember, account: IDENTITY_ACCOUNT, podName: IDENTITY_ACCOUNT });
  const destination = putMember(store, {
    ...controlMember,
    account: DESTINATION_ACCOUNT,
    podName: DESTINATION_ACCOUNT,
  });
  const agents = layout.nodes.map((node) => ({
    node,
    pod: putMember(store, {
      namespace: INSTALL_NAMESPACE,
      account: AGENT_ACCOUNT,
      podName: `${AGENT_ACCOUNT}-${node.name}`,
      address: node.address,
      node,
    }),
  }));

  const controlPlace = (name: string) => ({
    netns: layout.controlNetns,
    cgroup: layout.controlCgroup,
    logFile: join(layout.logDir, `${name}.log`),
  });
  start('identity', 'identity/main.ts', controlPlace('identity'), {
    ...services,
    NODEMESH_LISTEN: `[::]:${IDENTITY_PORT}`,
    NODEMESH_ISSUER_CERT_FILE: keys.files.issuer,
    NODEMESH_ISSUER_KEY_FILE: keys.files.issuerKey,
    ...options.identityEnv,
  });
  start('destination', 'destination/main.ts', controlPlace('destination'), {
    ...services,
    NODEMESH_LISTEN: `[::]:${DESTINATION_PORT}`,
    NODEMESH_IDENTITY_ADDRESS: `${control}:${IDENTITY_PORT}`,
    NODEMESH_IDENTITY_NAME: identityName(IDENTITY_ACCOUNT),
    NODEMESH_IDENTITY_TOKEN_FILE: token(destination, 'identity-token', tokenAudiences.identity),
    NODEMESH_CLUSTER_NETWORKS: CLUSTER_NETWORKS.join(','),
    ...options.destinationEnv,
  });
  const nodeAgents = new Map<string, NodeAgent>();
  const keeperSocketOf = (node: NodeLayout): string => join(node.runDir, 'keeper.sock');
  const startKeeper = (node: NodeLayout): void => {
    programs.set(
      keeperProgramName(node.name),
      run({
        name: keeperProgramName(node.name),
        argv: [
          join(root, 'build', 'keeper'),
          '--socket',
          keeperSocketOf(node),
          '--limit-ms',
          String(options.keeperLimitMs),
        ],
        env: { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin' },
        netns: node.netns,
        cgroup: node.systemCgroup,
        logFile: join(node.logDir, 'keeper.log'),
      }),
    );
  };
  const agentOf = (node: string): NodeAgent => {
    const agent = nodeAgents.get(node);
    if (agent !== undefined) return agent;
    throw new MeshError('MESH_NOT_FOUND', `there is no agent on ${node}`, {
      remedy: `nodes are ${layout.nodes.map(({ name }) => name).join(', ')}`,
    });
  };
  for (const { node, pod } of agents) {
    startKeeper(node);
    const name = agentProgramName(node.name);
    const program = nodeProgram(
      name,
      'agent/main.ts',
      { netns: node.netns, cgroup: node.agentCgroup, logFile: join(node.logDir, 'agent.log') },
      {
        ...shared,
        NODEMESH_NODE_NAME: node.name,
        NODEMESH_NODE_IPS: `${node.address.v4},${node.address.v6}`,
        NODEMESH_SERVICE_ACCOUNT: AGENT_ACCOUNT,
        NODEMESH_RUN_DIR: node.runDir,
        NODEMESH_STATE_DIR: node.stateDir,
        NODEMESH_KEEPER_SOCKET: keeperSocketOf(node),
        NODEMESH_BPFFS: node.bpffs,
        NODEMESH_BPF_OBJECTS: join(root, 'build', 'bpf'),
        NODEMESH_CONNECT_TEST: join(root, 'build', 'connect-test'),
        NODEMESH_PODS_CGROUP: node.podsCgroup,
        NODEMESH_NODE_CGROUP: node.cgroup,
        NODEMESH_IDENTITY_ADDRESS: `${control}:${IDENTITY_PORT}`,
        NODEMESH_IDENTITY_NAME: identityName(IDENTITY_ACCOUNT),
        NODEMESH_IDENTITY_TOKEN_FILE: token(pod, 'identity-token', tokenAudiences.agent),
        NODEMESH_DESTINATION_ADDRESS: `${control}:${DESTINATION_PORT}`,
        NODEMESH_DESTINATION_NAME: identityName(DESTINATION_ACCOUNT),
        NODEMESH_DESTINATION_TOKEN_FILE: token(pod, 'destination-token', tokenAudiences.nodeStream),
        ...options.agentEnv,
      },
    );
    const { agentOpenFilesMax: files } = options;
    const limited = files === undefined ? [] : ['prlimit', `--nofile=${files}:${files}`, '--'];
    const argv = [...limited, join(root, 'build', 'agent-parent'), ...program.argv];
    nodeAgents.set(
      node.name,
      new NodeAgent({
        name,
        start: (env) => run({ ...program, env: { ...program.env, ...env }, argv, hasParent: true }),
        probe: () => options.probeAgent(node),
      }),
    );
  }
  return {
    get programs() {
      return new Map([...programs, ...[...nodeAgents.values()].flatMap((agent) => [...agent.programs()])]);
    },
    agent: agentOf,
    async powerOff(node) {
      const name = keeperProgramName(node);
      const keeper = programs.get(name);
      programs.delete(name);
      await Promise.all([keeper?.retire('SIGKILL'), agentOf(node).act('stop', false)]);
    },
    async powerOn(node) {
      const found = layout.nodes.find(({ name }) => name === node);
      if (found !== undefined) startKeeper(found);
      await agentOf(node).act('start', false);
    },
    close() {
      for (const stop of stopTokens) stop();
      for (const program of programs.values()) program.abandon();
      for (const agent of nodeAgents.values()) agent.abandon();
    },
  };
}
