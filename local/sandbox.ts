// SPDX-License-Identifier: Apache-2.0
// A pod's network: the namespace and the CNI chain of its node, tried again until it works, as a kubelet does.
// A failed attempt is taken down with DEL before the next one begins.

import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Concurrency } from '#lib/core/concurrency.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import {
  cniAdd,
  cniAddresses,
  type CniCall,
  cniDel,
  type CniHost,
  type CniNetwork,
  readConflist,
} from './cni-chain.ts';
import { inCgroup, inNetns } from './command.ts';
import { type NodeLayout, netnsPath, podNetns } from './layout.ts';
import { makeNetns, removeNetns } from './network.ts';
import { namespaceOf, type PodObject } from './objects.ts';

const PLUGIN_TIMEOUT_MS = 60_000;
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MAX_MS = 5000;
const LOOPBACK: CniNetwork = { cniVersion: '1.0.0', name: 'loopback', plugins: [{ type: 'loopback' }] };

export const CONFLIST_NAME = '10-nodemesh-local.conflist';

export interface Sandbox {
  readonly netns: string;
  readonly ips: readonly string[];
  /** Runs DEL and removes the namespace; called again it does nothing. */
  remove(): Promise<void>;
}

export interface SandboxHost {
  readonly meshName: string;
  readonly node: NodeLayout;
  readonly log: Log;
  /** How many attempts of one node run at once; one that has to wait for its next attempt holds up nobody. */
  readonly limit: Concurrency;
}

const cniHost = (node: NodeLayout): CniHost => ({
  binDir: node.cniBinDir,
  wrap: (argv) => inCgroup(node.systemCgroup, inNetns(node.netns, argv)),
  timeoutMs: PLUGIN_TIMEOUT_MS,
});

async function removeAttempt(
  host: SandboxHost,
  netns: string,
  network: CniNetwork,
  call: CniCall,
  result: Readonly<Record<string, unknown>> | undefined,
): Promise<void> {
  try {
    await cniDel(cniHost(host.node), network, call, result);
  } catch (error) {
    host.log.warn({ error: errorMessage(error), containerId: call.containerId }, 'CNI DEL failed');
  }
  if (existsSync(netnsPath(netns))) await removeNetns(netns);
}

async function attempt(host: SandboxHost, pod: PodObject, netns: string): Promise<Sandbox> {
  const network = await readConflist(join(host.node.cniConfDir, CONFLIST_NAME));
  const containerId = randomBytes(32).toString('hex');
  const call: CniCall = {
    containerId,
    netnsPath: netnsPath(netns),
    ifname: 'eth0',
    args: {
      IgnoreUnknown: '1',
      K8S_POD_NAMESPACE: namespaceOf(pod),
      K8S_POD_NAME: pod.metadata.name,
      K8S_POD_INFRA_CONTAINER_ID: containerId,
      K8S_POD_UID: pod.metadata.uid,
    },
  };
  try {
    await makeNetns(netns);
    await cniAdd(cniHost(host.node), LOOPBACK, { ...call, ifname: 'lo' });
    const result = await cniAdd(cniHost(host.node), network, call);
    const ips = cniAddresses(result);
    if (ips.length === 0) throw new MeshError('MESH_COMMAND_FAILED', 'the CNI chain gave the pod no address');
    let removed: Promise<void> | undefined;
    return {
      netns,
      ips,
      remove: () => (removed ??= removeAttempt(host, netns, network, call, result)),
    };
  } catch (error) {
    await removeAttempt(host, netns, network, call, undefined);
    throw error;
  }
}

/** A sandbox, or undefined if `signal` aborts first. `onFailure` is told of every attempt that failed. */
export async function makeSandbox(
  host: SandboxHost,
  pod: PodObject,
  signal: AbortSignal,
  onFailure: (message: string) => void,
  delay: (ms: number, signal: AbortSignal) => Promise<void>,
): Promise<Sandbox | undefined> {
  const netns = podNetns(host.meshName, namespaceOf(pod), pod.metadata.name);
  let backoffMs = BACKOFF_FIRST_MS;
  while (!signal.aborted) {
    try {
      return await host.limit.run(() => attempt(host, pod, netns));
    } catch (error) {
      onFailure(errorMessage(error));
      host.log.warn(
        { pod: pod.metadata.name, error: errorMessage(error) },
        'the pod sandbox cannot be made yet',
      );
    }
    await delay(backoffMs, signal);
    backoffMs = Math.min(BACKOFF_MAX_MS, backoffMs * 2);
  }
  return undefined;
}
