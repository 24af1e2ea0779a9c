// SPDX-License-Identifier: Apache-2.0
// Asks who a ServiceAccount token belongs to, as Kubernetes' TokenReview (authentication.k8s.io/v1) answers. The
// local registry implements it over its own signing key; over Kubernetes the API server does.

export interface TokenReviewUser {
  /** `system:serviceaccount:<namespace>:<name>` */
  readonly username: string;
  readonly uid: string;
  readonly groups: readonly string[];
  readonly extra: Readonly<Record<string, readonly string[]>>;
}

/** `status` of a TokenReview. */
export interface TokenReviewStatus {
  readonly authenticated: boolean;
  /** Those of the audiences asked for that the token carries; empty if the reviewer knows no audiences. */
  readonly audiences: readonly string[];
  readonly user: TokenReviewUser | undefined;
  /** Why the token was not authenticated. */
  readonly error: string | undefined;
}

export interface TokenReviewer {
  /** Rejects only if the reviewer itself cannot be asked; a bad token is an answer. */
  review(token: string, audiences: readonly string[]): Promise<TokenReviewStatus>;
}

/** Keys of `user.extra` for tokens bound to a pod. */
export const tokenExtra = {
  podName: 'authentication.kubernetes.io/pod-name',
  podUid: 'authentication.kubernetes.io/pod-uid',
  nodeName: 'authentication.kubernetes.io/node-name',
  nodeUid: 'authentication.kubernetes.io/node-uid',
} as const;

/** The audiences of the mesh's tokens. */
export const tokenAudiences = {
  /** Any pod's token: certifies its own account. */
  identity: 'identity.l5d.io',
  /** An agent's token at Certify: certifies the accounts of its node. */
  agent: 'identity.nodemesh.io/agent',
  /** An agent's token at the node stream. */
  nodeStream: 'destination.nodemesh.io/node',
} as const;

/** The first value of one extra key, or undefined if it is absent or not exactly one. */
export function extraValue(user: TokenReviewUser, key: string): string | undefined {
  const values = user.extra[key] ?? [];
  return values.length === 1 && values[0] !== '' ? values[0] : undefined;
}
