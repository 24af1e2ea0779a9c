// SPDX-License-Identifier: Apache-2.0
// What is answered while the agent is away: the same rules as in the C shim, for `main.ts`. One test suite runs
// against both.

import { readFileSync } from 'node:fs';
import { errnoName } from '#lib/core/errors.ts';
import {
  type CniConfig,
  type CniRequest,
  parseCommand,
  passedResult,
  podArguments,
  requireContainerId,
} from './call.ts';
import { type CniAnswer, CniError, cniCode, success } from './errors.ts';
import { leaveTombstone } from './tombstones.ts';

/** Whether the agent's list names the pod or its namespace. A list that is there but cannot be read counts as yes. */
export function isListed(config: CniConfig, request: CniRequest): boolean {
  const pod = podArguments(request.env);
  let text: string;
  try {
    text = readFileSync(config.enrolledList, 'utf8');
  } catch (error) {
    return errnoName(error) !== 'ENOENT';
  }
  const lines = text.split('\n');
  return (
    (pod.namespace !== '' && lines.includes(`ns ${pod.namespace}`)) ||
    (pod.uid !== '' && lines.includes(`pod ${pod.uid}`))
  );
}

export function answerAlone(config: CniConfig, request: CniRequest): CniAnswer {
  switch (parseCommand(request.env)) {
    case 'ADD':
      if (isListed(config, request)) {
        throw new CniError(
          cniCode.tryAgain,
          'the agent of this node cannot be reached; a pod of the mesh does not start without it',
          { details: config.socket },
        );
      }
      return { code: 0, stdout: passedResult(config) };
    case 'STATUS':
      throw new CniError(cniCode.unavailable, 'the agent of this node cannot be reached', {
        details: config.socket,
      });
    case 'DEL':
      leaveTombstone(config.tombstones, requireContainerId(request.env), podArguments(request.env).uid);
      return success;
    case 'CHECK':
    case 'GC':
    case 'VERSION':
      return success;
  }
}
