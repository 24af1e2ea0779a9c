// SPDX-License-Identifier: Apache-2.0
// Starts stand-ins of agents, one on each node (programs/stand-in-agent.ts), and keeps what they say.

import { type ChildProcess, spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { inNetns } from '../../local/command.ts';
import { PAUSE_IMAGE } from '../kind/machine-files.ts';
import { type Cluster, PATIENCE_MS } from './cluster.ts';

const PROGRAM = resolve(import.meta.dirname, 'programs/stand-in-agent.ts');
const MESH_PORT = 24_143;
const ACCOUNT = 'nodemesh-agent';

export interface StandInTarget {
  readonly name: string;
  readonly namespace: string;
  readonly ip: string;
  readonly port: number;
}

export interface StandInConfig {
  readonly node: string;
  readonly ip: string;
  readonly ownIdentity: string;
  readonly identityAddress: string;
  readonly identityName: string;
  readonly identityTokenFile: string;
  readonly destinationAddress: string;
  readonly destinationName: string;
  readonly streamTokenFile: string;
  readonly anchorsFile: string;
  readonly targets: readonly StandInTarget[];
  /** Its likes on other nodes: it dials them as this identity, and they must prove the other. */
  readonly peers: readonly string[];
  readonly meshPort: number;
  readonly clientIdentity: string;
  readonly serverIdentity: string;
}

export type StandInLine =
  | { readonly what: 'stream'; readonly state: string }
  | { readonly what: 'enrolled'; readonly uid: string; readonly pod: string }
  /** Without endpoints: destination said that it is nothing known. */
  | { readonly what: 'destination'; readonly name: string; readonly endpoints?: readonly string[] }
  | { readonly what: 'serving' }
  | { readonly what: 'warning'; readonly message: string; readonly reason: string }
  /** What must not happen. */
  | { readonly what: 'failure'; readonly reason: string }
  | Beat;

export interface Beat {
  readonly what: 'beat';
  readonly connected: boolean;
  readonly certificates: number;
  readonly dials: number;
  readonly echoes: number;
  /** Node streams that were begun. */
  readonly connects: number;
  /** Of whom its certificates are: fingerprints. */
  readonly issuers: readonly string[];
}

export interface StandIn {
  readonly node: string;
  readonly lines: readonly StandInLine[];
  readonly beat: Beat;
  readonly failures: readonly string[];
  /** The last answer for a target. */
  endpointsOf(target: string): readonly string[] | undefined;
  close(): void;
}

export interface StandInsOptions {
  /** The namespace of the installation; its identities' control-plane part is `linkerd`. */
  readonly namespace: string;
  readonly targets: readonly StandInTarget[];
  /** Accounts whose pods run on every node, `name.namespace`. */
  readonly client: string;
  readonly server: string;
}

const tokenVolume = (name: string, audience: string) => ({
  name,
  projected: { sources: [{ serviceAccountToken: { path: 'token', audience } }] },
});

const identityOf = (account: string): string => `${account}.serviceaccount.identity.linkerd.cluster.local`;

/** Resolves when all serve; afterwards they talk to each other without a pause. */
export async function startStandIns(cluster: Cluster, options: StandInsOptions): Promise<readonly StandIn[]> {
  const { namespace } = options;
  await cluster.apply([
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: ACCOUNT, namespace } },
    ...cluster.nodes.map((node) => standInPod(namespace, node.name)),
  ]);
  const pods = await cluster.podsReady(namespace, 'app=stand-in', cluster.nodes.length);
  const [identityIp, destinationIp] = await Promise.all(
    ['linkerd-identity', 'linkerd-dst'].map((name) => cluster.serviceAddress(namespace, name)),
  );
  const standIns = cluster.nodes.map((node, index) => {
    const pod = pods.find(({ metadata }) => metadata.name === `stand-in-${node.name}`);
    // Volumes are mounted in the machine's namespace only.
    const volumes = `/proc/${node.pid}/root/var/lib/kubelet/pods/${pod?.metadata.uid ?? ''}/volumes`;
    return start(cluster.layout.nodes[index]?.netns ?? '', {
      node: node.name,
      ip: node.address,
      ownIdentity: identityOf(`${ACCOUNT}.${namespace}`),
      identityAddress: `${identityIp}:8080`,
      identityName: identityOf(`linkerd-identity.${namespace}`),
      identityTokenFile: `${volumes}/kubernetes.io~projected/identity/token`,
      destinationAddress: `${destinationIp}:8086`,
      destinationName: identityOf(`linkerd-destination.${namespace}`),
      streamTokenFile: `${volumes}/kubernetes.io~projected/stream/token`,
      anchorsFile: `${volumes}/kubernetes.io~configmap/trust-roots/ca-bundle.crt`,
      targets: options.targets,
      peers: cluster.nodes.filter((other) => other !== node).map(({ address }) => address),
      meshPort: MESH_PORT,
      clientIdentity: identityOf(options.client),
      serverIdentity: identityOf(options.server),
    });
  });
  await cluster.waitFor('every stand-in to serve', async () =>
    standIns.every(({ lines }) => lines.some(({ what }) => what === 'serving')),
  );
  for (const standIn of standIns) standIn.talk();
  return standIns;
}

const standInPod = (namespace: string, node: string) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: `stand-in-${node}`, namespace, labels: { app: 'stand-in' } },
  spec: {
    nodeName: node,
    serviceAccountName: ACCOUNT,
    terminationGracePeriodSeconds: 0,
    tolerations: [{ operator: 'Exists' }],
    containers: [
      {
        name: 'pause',
        image: PAUSE_IMAGE,
        imagePullPolicy: 'Never',
        // The kubelet prepares only what a container mounts.
        volumeMounts: ['identity', 'stream', 'trust-roots'].map((name) => ({ name, mountPath: `/${name}` })),
      },
    ],
    volumes: [
      tokenVolume('identity', 'identity.nodemesh.io/agent'),
      tokenVolume('stream', 'destination.nodemesh.io/node'),
      { name: 'trust-roots', configMap: { name: 'linkerd-identity-trust-roots' } },
    ],
  },
});

const LINES_MAX = 20_000;

function start(netns: string, config: StandInConfig): StandIn & { talk(): void } {
  const [program = '', ...args] = inNetns(netns, [process.execPath, PROGRAM, JSON.stringify(config)]);
  const child: ChildProcess = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines: StandInLine[] = [];
  const failures: string[] = [];
  const endpoints = new Map<string, readonly string[] | undefined>();
  let beat: Beat = {
    what: 'beat',
    connected: false,
    certificates: 0,
    dials: 0,
    echoes: 0,
    connects: 0,
    issuers: [],
  };
  let closing = false;
  child.on('exit', (code, signal) => {
    if (!closing) failures.push(`the stand-in on ${config.node} ended with ${signal ?? code}`);
  });
  if (child.stdout !== null) {
    createInterface(child.stdout).on('line', (text) => {
      const line = JSON.parse(text) as StandInLine;
      if (line.what === 'beat') beat = line;
      else if (lines.length < LINES_MAX) lines.push(line);
      if (line.what === 'failure') failures.push(`${config.node}: ${line.reason}`);
      if (line.what === 'destination') endpoints.set(line.name, line.endpoints);
    });
  }
  return {
    node: config.node,
    lines,
    failures,
    get beat() {
      return beat;
    },
    endpointsOf: (target) => endpoints.get(target),
    talk: () => void child.stdin?.write('talk\n'),
    close() {
      closing = true;
      child.kill('SIGKILL');
    },
  };
}

/** Until all have a stream and have heard from each other. */
export const standInsSettled = (cluster: Cluster, standIns: readonly StandIn[]): Promise<boolean> =>
  cluster.waitFor(
    'every stand-in to have a stream',
    async () => standIns.every(({ beat }) => beat.connected && beat.dials > 0),
    PATIENCE_MS,
  );
