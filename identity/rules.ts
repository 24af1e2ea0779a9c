// SPDX-License-Identifier: Apache-2.0
// Every reason for which Certify gives no certificate: one table, one gRPC status each. Which rule applies is
// decided in request.ts and decide.ts.

import { status } from '@grpc/grpc-js';

interface Rule {
  readonly code: status;
  /** The same call may succeed later without anybody doing anything. */
  readonly retry: boolean;
  readonly doc: string;
}

const refused = (code: status, doc: string): Rule => ({ code, retry: false, doc });
const later = (code: status, doc: string): Rule => ({ code, retry: true, doc });

export const certifyRules = {
  'issuer-missing': later(status.UNAVAILABLE, 'No issuer that leads to a trust anchor is loaded.'),
  'field-missing': refused(status.INVALID_ARGUMENT, 'Identity, token and certificate request must be there.'),
  'field-too-long': refused(status.INVALID_ARGUMENT, 'Identity, token and request have a limit.'),
  'request-unreadable': refused(status.INVALID_ARGUMENT, 'The request must be a PKCS#10 request in DER.'),
  'request-key': refused(status.FAILED_PRECONDITION, "The request's key must be ECDSA on P-256."),
  'request-signature': refused(status.FAILED_PRECONDITION, 'The request must be signed by its own key.'),
  'request-names': refused(
    status.FAILED_PRECONDITION,
    'The only name of the request must be the DNS name asked for; its subject is empty or that name.',
  ),
  'review-busy': later(status.RESOURCE_EXHAUSTED, 'Too many tokens wait for their review.'),
  'review-failed': later(status.UNAVAILABLE, 'The token reviewer cannot be asked.'),
  'token-invalid': refused(
    status.FAILED_PRECONDITION,
    'The token must be authentic, unexpired and its pod alive.',
  ),
  'token-audience': refused(status.FAILED_PRECONDITION, 'The token must be made for identity.'),
  'token-user': refused(status.INVALID_ARGUMENT, 'The token must be that of a ServiceAccount.'),
  'own-account-only': refused(
    status.FAILED_PRECONDITION,
    "A token certifies its own account; only an agent's, with the agents' audience, certifies others.",
  ),
  'agent-not-bound': refused(status.PERMISSION_DENIED, "An agent's token must be bound to a pod and a node."),
  'registry-unread': later(status.UNAVAILABLE, 'What runs where has not been read yet.'),
  'agent-unseen': later(status.UNAVAILABLE, "The agent's pod has not been seen yet."),
  'agent-not-alive': refused(status.PERMISSION_DENIED, "The agent's pod, by name and uid, must be alive."),
  'agent-other-node': refused(
    status.PERMISSION_DENIED,
    "The agent's pod must run on the node that the token names.",
  ),
  'foreign-identity': refused(status.PERMISSION_DENIED, 'The identity must be one of this mesh.'),
  'account-unseen': later(
    status.UNAVAILABLE,
    "No pod of the account has been seen on the agent's node so far.",
  ),
  'account-not-meshed': refused(
    status.PERMISSION_DENIED,
    "The account must have a live, opted-in and eligible pod on the agent's node.",
  ),
  'issuing-failed': later(status.INTERNAL, 'The certificate could not be made.'),
} as const satisfies Record<string, Rule>;

export type CertifyRule = keyof typeof certifyRules;

/** Thrown where a rule says no. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly rule: CertifyRule;

  constructor(rule: CertifyRule, detail: string) {
    super(detail);
    this.rule = rule;
  }

  get code(): status {
    return certifyRules[this.rule].code;
  }

  get retry(): boolean {
    return certifyRules[this.rule].retry;
  }
}
