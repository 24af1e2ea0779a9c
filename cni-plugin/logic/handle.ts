// SPDX-License-Identifier: Apache-2.0
// Answers one CNI call with the agent's knowledge. Knows the CNI specification and nothing of sockets or
// kernels: what becomes of the pod is CniNode's work, how the call came here is server.ts's.

import { statSync } from 'node:fs';
import { MeshError } from '#lib/core/errors.ts';
import {
  type CniConfig,
  type CniRequest,
  decodeConfig,
  isExcluded,
  parseCommand,
  parseConfig,
  passedResult,
  podArguments,
  requireContainerId,
  requireIfname,
  requireNetns,
  requirePrevResult,
  resultAddresses,
  spokenVersion,
  supportedVersions,
} from './call.ts';
import { answerOf, type CniAnswer, CniError, cniCode, success } from './errors.ts';
import type { CniNode, CniPod } from './node.ts';

/** Never throws: whatever goes wrong is an answer that the runtime understands. */
export async function handleCni(request: CniRequest, node: CniNode): Promise<CniAnswer> {
  try {
    return await answer(request, node);
  } catch (error) {
    // What is not named here leaves the pod's state unknown: the runtime tears the sandbox down and tries again.
    return answerOf(error, spokenVersion(request.stdin), cniCode.tryAgain);
  }
}

async function answer({ env, stdin }: CniRequest, node: CniNode): Promise<CniAnswer> {
  const command = parseCommand(env);
  if (command === 'VERSION') {
    return {
      code: 0,
      stdout: `${JSON.stringify({ cniVersion: spokenVersion(stdin), supportedVersions })}\n`,
    };
  }
  if (command === 'DEL') {
    // Comes several times, also with an empty CNI_NETNS, without prevResult, with a configuration changed since.
    decodeConfig(stdin);
    await node.removePod(requireContainerId(env), podArguments(env).uid, env.get('CNI_IFNAME') ?? '');
    return success;
  }
  const config = parseConfig(stdin, command);
  switch (command) {
    case 'ADD': {
      const pod = podOf(env, config);
      // Without a pod's name it is no pod of Kubernetes.
      if (pod.namespace !== '' && !isExcluded(config, pod.namespace)) {
        requireForeignNamespace(pod.netnsPath);
        const added = await node.addPod(pod);
        if (added.outcome === 'try-again') throw new CniError(cniCode.tryAgain, added.reason);
      }
      return { code: 0, stdout: passedResult(stdin) };
    }
    case 'CHECK': {
      const pod = podOf(env, config);
      if (pod.namespace === '' || isExcluded(config, pod.namespace)) return success;
      const checked = await node.checkPod(pod);
      if (checked.outcome === 'broken') throw new CniError(cniCode.tryAgain, checked.reason);
      return success;
    }
    case 'GC':
      // No list is not an empty list: without it nothing is known to be stale.
      if (config.validAttachments !== undefined) await node.keepOnly(config.network, config.validAttachments);
      return success;
    case 'STATUS':
      // Whoever reaches this has loaded its lists; neither control plane nor DNS matters for ADD to be answered.
      return success;
  }
}

function podOf(env: CniRequest['env'], config: CniConfig): CniPod {
  return {
    containerId: requireContainerId(env),
    netnsPath: requireNetns(env),
    ifname: requireIfname(env),
    network: config.network,
    addresses: resultAddresses(requirePrevResult(config)),
    ...podArguments(env),
  };
}

/** The plugin must never be led to redirect the node itself. */
function requireForeignNamespace(netnsPath: string): void {
  let theirs: { readonly ino: number; readonly dev: number };
  try {
    theirs = statSync(netnsPath);
  } catch (error) {
    throw MeshError.from(error, 'MESH_NETNS', `CNI_NETNS ${netnsPath} cannot be read`);
  }
  const own = statSync('/proc/self/ns/net');
  // All namespaces are files of one file system of the kernel's own.
  if (theirs.dev !== own.dev) {
    throw new CniError(cniCode.environment, `CNI_NETNS ${netnsPath} is no namespace`);
  }
  if (theirs.ino === own.ino) {
    throw new CniError(cniCode.environment, `CNI_NETNS ${netnsPath} is the node's own network namespace`);
  }
}
