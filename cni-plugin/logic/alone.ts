// SPDX-License-Identifier: Apache-2.0
// What is answered while the agent is away: the same rules as in the C shim, for `main.ts`. One test suite runs
// against both.

import { type CniConfig, type CniRequest, parseCommand, passedResult, podArguments } from './call.ts';
import { type CniAnswer, CniError, cniCode, success } from './errors.ts';
import { readEnrolledList } from './enrolled-list.ts';
import { leaveTombstone, removeTombstone } from './tombstones.ts';

/** Why the pod may not start without the agent; undefined: it may. */
export function heldBack(config: CniConfig, request: CniRequest): string | undefined {
  const pod = podArguments(request.env);
  // What is no pod of Kubernetes is nobody's to hold back.
  if (pod.namespace === '') return undefined;
  const list = readEnrolledList(config.enrolledList);
  if (list.state === 'missing') return undefined;
  if (list.state === 'damaged')
    return 'the list of what is in the mesh cannot be read: no pod starts without it';
  return list.namespaces.includes(pod.namespace) || (pod.uid !== '' && list.pods.includes(pod.uid))
    ? 'a pod of the mesh does not start without it'
    : undefined;
}

/** `why` says what is wrong with the agent. */
export function answerAlone(config: CniConfig, request: CniRequest, why: string): CniAnswer {
  const containerId = request.env.get('CNI_CONTAINERID') ?? '';
  switch (parseCommand(request.env)) {
    case 'ADD': {
      const reason = heldBack(config, request);
      if (reason !== undefined) {
        throw new CniError(cniCode.tryAgain, `${why}; ${reason}`, { details: config.socket });
      }
      // The container id may be used anew: an earlier removal must not be taken for one of this sandbox.
      removeTombstone(config.tombstones, containerId);
      return { code: 0, stdout: passedResult(request.stdin) };
    }
    case 'STATUS':
      throw new CniError(cniCode.unavailable, why, { details: config.socket });
    case 'GC':
      throw new CniError(cniCode.tryAgain, `${why}; nothing was cleaned up`, { details: config.socket });
    case 'DEL':
      leaveTombstone(config.tombstones, containerId, podArguments(request.env).uid);
      return success;
    case 'CHECK':
    // What an agent that restarts would say is not known, and a failed CHECK counts as broken for good.
    case 'VERSION':
      return success;
  }
}
