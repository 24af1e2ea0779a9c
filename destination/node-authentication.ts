// SPDX-License-Identifier: Apache-2.0
// Whether a stream may speak for a node: TLS identity of the agents' account, and a token of that account bound
// to a live pod on exactly that node. Every refusal names who and why.

import { errorMessage } from '#lib/core/errors.ts';
import type { Hello } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import { podTerminal } from '#lib/registry/model.ts';
import {
  extraValue,
  tokenAudiences,
  type TokenReviewer,
  type TokenReviewStatus,
  tokenExtra,
} from '#lib/registry/token-review.ts';
import type { Caller, Callers } from './callers.ts';
import type { ClusterIndex } from './cluster-index.ts';
import { CallError, status } from '#lib/grpc/status.ts';

export interface NodeAuthenticationOptions {
  readonly index: ClusterIndex;
  readonly reviewer: TokenReviewer;
  readonly callers: Callers;
  readonly settings: MeshSettings;
  readonly cluster: string;
  readonly agentServiceAccount: string;
}

/** The agent's own pod: the stream lives no longer than it. */
export interface AgentPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export async function authenticateNode(
  options: NodeAuthenticationOptions,
  caller: Caller,
  hello: Hello,
): Promise<AgentPod> {
  const { callers, settings, cluster, agentServiceAccount } = options;
  const refuse = (why: string): CallError =>
    new CallError(
      status.PERMISSION_DENIED,
      `node stream for "${hello.nodeName}" of ${caller.identity} (${caller.connection}) refused: ${why}`,
    );
  if (caller.identity !== callers.agentIdentity) {
    throw refuse(`only ${callers.agentIdentity} may open it`);
  }
  if (hello.nodeName === '') throw new CallError(status.INVALID_ARGUMENT, 'Hello names no node');
  if (hello.cluster !== '' && hello.cluster !== cluster) {
    throw refuse(`this is cluster ${cluster}, not ${hello.cluster}`);
  }

  const review = await askReviewer(options.reviewer, hello.token.toString('utf8'));
  const { user } = review;
  if (!review.authenticated || user === undefined) {
    throw new CallError(
      status.UNAUTHENTICATED,
      `node stream for "${hello.nodeName}" of ${caller.connection} refused: ${review.error ?? 'the token is not valid'}`,
    );
  }
  if (!review.audiences.includes(tokenAudiences.nodeStream)) {
    throw refuse(`its token lacks the audience ${tokenAudiences.nodeStream}`);
  }
  const account = `system:serviceaccount:${settings.namespace}:${agentServiceAccount}`;
  if (user.username !== account) throw refuse(`its token is ${user.username}'s, not ${account}'s`);
  const name = extraValue(user, tokenExtra.podName);
  const uid = extraValue(user, tokenExtra.podUid);
  const node = extraValue(user, tokenExtra.nodeName);
  if (name === undefined || uid === undefined) throw refuse('its token is not bound to a pod');
  if (node !== hello.nodeName) throw refuse(`its token is bound to node "${node ?? ''}"`);
  const pod = options.index.pod({ cluster, namespace: settings.namespace, name })?.pod;
  if (pod === undefined) {
    throw new CallError(
      status.UNAVAILABLE,
      `pod ${settings.namespace}/${name} of the token has not been seen yet; try again`,
    );
  }
  if (pod.metadata.uid !== uid || podTerminal(pod))
    throw refuse(`pod ${settings.namespace}/${name} of its token is gone`);
  if (pod.spec.nodeName !== node)
    throw refuse(`pod ${name} of its token runs on node "${pod.spec.nodeName}"`);
  return { namespace: settings.namespace, name, uid };
}

async function askReviewer(reviewer: TokenReviewer, token: string): Promise<TokenReviewStatus> {
  try {
    return await reviewer.review(token, [tokenAudiences.nodeStream]);
  } catch (error) {
    throw new CallError(status.UNAVAILABLE, `the token cannot be reviewed now: ${errorMessage(error)}`);
  }
}
