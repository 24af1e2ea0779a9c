// SPDX-License-Identifier: Apache-2.0
// Answers one CNI call with the agent's knowledge. Knows the CNI specification and nothing of sockets or
// kernels: what becomes of the pod is CniNode's work, how the call came here is server.ts's.

import { statSync } from 'node:fs';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import {
  type CniRequest,
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
import { type CniAnswer, CniError, cniCode, errorAnswer, success } from './errors.ts';
import type { CniNode } from './node.ts';

/** Never throws: whatever goes wrong is an answer that the runtime understands. */
export async function handleCni(request: CniRequest, node: CniNode): Promise<CniAnswer> {
  try {
    return await answer(request, node);
  } catch (error) {
    const version = spokenVersion(request.stdin);
    if (error instanceof CniError) return errorAnswer(error.cniCode, error.message, version);
    // The pod's state is not known: the runtime tears the sandbox down and tries again.
    return errorAnswer(cniCode.tryAgain, errorMessage(error), version);
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
  const config = parseConfig(stdin);
  switch (command) {
    case 'ADD': {
      const containerId = requireContainerId(env);
      const netnsPath = requireNetns(env);
      const ifname = requireIfname(env);
      const addresses = resultAddresses(requirePrevResult(config));
      const pod = podArguments(env);
      // Without a pod's name it is no pod of Kubernetes.
      if (pod.namespace === '' || isExcluded(config, pod.namespace)) {
        return { code: 0, stdout: passedResult(config) };
      }
      requireForeignNamespace(netnsPath);
      const added = await node.addPod({ containerId, netnsPath, ifname, addresses, ...pod });
      if (added.outcome === 'try-again') throw new CniError(cniCode.tryAgain, added.reason);
      return { code: 0, stdout: passedResult(config) };
    }
    case 'DEL':
      // Comes several times, also with an empty CNI_NETNS and without prevResult.
      await node.removePod(requireContainerId(env), podArguments(env).uid);
      return success;
    case 'CHECK':
      requireContainerId(env);
      requireNetns(env);
      requireIfname(env);
      requirePrevResult(config);
      return success;
    case 'GC':
    case 'STATUS':
      return success;
  }
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
