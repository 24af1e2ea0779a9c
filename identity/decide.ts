// SPDX-License-Identifier: Apache-2.0
// Decides from a reviewed token whether an identity may be certified. Root on a node holds that node's agent token,
// so an agent's token yields only identities of pods that this very node runs in the mesh.

import {
  extraValue,
  tokenAudiences,
  tokenExtra,
  type TokenReviewStatus,
  type TokenReviewUser,
} from '#lib/registry/token-review.ts';
import {
  type Account,
  type IdentityDomain,
  identityOf,
  parseAccountUser,
  parseIdentity,
} from '#lib/x509/names.ts';
import type { Accounts } from './accounts.ts';
import { Refusal } from './rules.ts';

export interface DecisionContext {
  readonly domain: IdentityDomain;
  /** The ServiceAccount of the agents. */
  readonly agent: Account;
  readonly accounts: Pick<Accounts, 'synced' | 'pod' | 'onNode'>;
}

export interface Decision {
  readonly account: Account;
  /** Node of the agent that asked for another account's certificate. */
  readonly nodeName: string | undefined;
}

/** Audiences that a token at Certify may have; a review asks for these and never for none. */
export const certifyAudiences: readonly string[] = [tokenAudiences.identity, tokenAudiences.agent];

/** Returns for whom the certificate is, or throws the Refusal of the first rule that is broken. */
export function decide(identity: string, review: TokenReviewStatus, context: DecisionContext): Decision {
  const user = review.user;
  if (!review.authenticated || user === undefined)
    throw new Refusal('token-invalid', review.error ?? 'the token is not authentic');
  const tokenAccount = parseAccountUser(user.username);
  if (tokenAccount === undefined)
    throw new Refusal('token-user', `the token is that of ${user.username}, which is no ServiceAccount`);
  const holder = `${tokenAccount.namespace}/${tokenAccount.name}`;

  const isAgentAccount =
    tokenAccount.namespace === context.agent.namespace && tokenAccount.name === context.agent.name;
  const asAgent = isAgentAccount && review.audiences.includes(tokenAudiences.agent);
  if (!asAgent && !review.audiences.includes(tokenAudiences.identity))
    throw new Refusal('token-audience', `the token of ${holder} is not made for ${tokenAudiences.identity}`);

  if (identity === identityOf(tokenAccount, context.domain))
    return { account: tokenAccount, nodeName: undefined };
  if (!asAgent) throw new Refusal('own-account-only', `the token of ${holder} does not certify ${identity}`);
  const nodeName = checkAgent(user, context);
  return { account: checkAccountOnNode(identity, nodeName, context), nodeName };
}

/** The node of the agent that holds the token. */
function checkAgent(user: TokenReviewUser, context: DecisionContext): string {
  const name = extraValue(user, tokenExtra.podName);
  const uid = extraValue(user, tokenExtra.podUid);
  const nodeName = extraValue(user, tokenExtra.nodeName);
  if (name === undefined || uid === undefined || nodeName === undefined)
    throw new Refusal('agent-not-bound', "the agent's token is not bound to a pod and a node");
  if (!context.accounts.synced)
    throw new Refusal('registry-unread', 'the pods of the cluster have not been read yet');
  const pod = context.accounts.pod(context.agent.namespace, name);
  if (pod === undefined)
    throw new Refusal('agent-unseen', `the agent's pod ${name} on node ${nodeName} has not been seen yet`);
  if (pod.uid !== uid || !pod.alive || pod.serviceAccount !== context.agent.name)
    throw new Refusal('agent-not-alive', `the agent's pod ${name} with uid ${uid} is not alive`);
  if (pod.nodeName !== nodeName)
    throw new Refusal(
      'agent-other-node',
      `the agent's pod ${name} runs on node ${pod.nodeName}, its token names node ${nodeName}`,
    );
  return nodeName;
}

function checkAccountOnNode(identity: string, nodeName: string, context: DecisionContext): Account {
  const account = parseIdentity(identity, context.domain);
  if (account === undefined) throw new Refusal('foreign-identity', `${identity} is no identity of this mesh`);
  const known = context.accounts.onNode(nodeName, account);
  const where = `of ${account.namespace}/${account.name} on node ${nodeName}`;
  if (known.kind === 'unseen') throw new Refusal('account-unseen', `no pod ${where} has been seen so far`);
  if (known.kind === 'not-meshed')
    throw new Refusal('account-not-meshed', `no pod ${where} is in the mesh: ${known.reason}`);
  return account;
}
