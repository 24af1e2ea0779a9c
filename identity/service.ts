// SPDX-License-Identifier: Apache-2.0
// Certify (io.linkerd.proxy.identity.Identity): from a request to a certificate or the rule that is against it.
// The rules are in rules.ts; this is their order, the certificate's times and the gRPC surface.

import type { Clock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { Handlers } from '#lib/grpc/call.ts';
import { CallError } from '#lib/grpc/status.ts';
import type { ReviewLimits } from '#lib/registry/cached-reviews.ts';
import type { CertifyRequest, CertifyResponse, IdentityService } from '#lib/proto/gen/linkerd/identity.ts';
import { certifyAudiences, decide, type DecisionContext } from './decide.ts';
import type { CertificateIssuer, IssuedLeaf } from '#lib/x509-authority/issuer.ts';
import { checkCertificateRequest, checkFields } from './request.ts';
import { createReviews } from './reviews.ts';
import { type CertifyRule, Refusal } from './rules.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';

export interface CertifyOptions extends DecisionContext {
  /** The issuer in force; undefined while there is none that can be used. */
  readonly issuer: () => CertificateIssuer | undefined;
  readonly reviewer: TokenReviewer;
  readonly leafLifetimeMs: number;
  /** Added on both ends of the validity, for clocks that differ. */
  readonly clockSkewMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly onResult: (result: 'issued' | CertifyRule) => void;
  readonly reviewLimits?: ReviewLimits;
}

/** Trailing metadata of an answer without certificate: the rule, so that a client need not read the text. */
export const RULE_METADATA = 'nodemesh-rule';

/** The certificate, or a Refusal. */
export type Certify = (request: CertifyRequest) => Promise<CertifyResponse>;

export function createCertify(options: CertifyOptions): Certify {
  const { clock, log } = options;
  const reviews = createReviews({
    reviewer: options.reviewer,
    audiences: certifyAudiences,
    clock,
    ...(options.reviewLimits === undefined ? {} : { limits: options.reviewLimits }),
  });
  return async (request) => {
    const issuer = usableIssuer(options);
    checkFields(request);
    const publicKeyDer = await checkCertificateRequest(request.certificateSigningRequest, request.identity);
    const review = await reviews.review(request.token.toString());
    const decision = decide(request.identity, review, options);
    const nowMs = clock.wallMs();
    const issued = await issue(issuer, {
      publicKeyDer,
      dnsName: request.identity,
      notBeforeMs: nowMs - options.clockSkewMs,
      notAfterMs: nowMs + options.leafLifetimeMs + options.clockSkewMs,
    });
    log.info(
      {
        identity: request.identity,
        node: decision.nodeName,
        validUntil: new Date(issued.notAfterMs).toISOString(),
      },
      'certificate issued',
    );
    return {
      leafCertificate: issued.leafDer,
      intermediateCertificates: [...issued.intermediatesDer],
      validUntil: timestamp(issued.notAfterMs),
    };
  };
}

function usableIssuer(options: CertifyOptions): CertificateIssuer {
  const issuer = options.issuer();
  if (issuer === undefined) throw new Refusal('issuer-missing', 'identity has no issuer that can be used');
  if (issuer.notAfterMs <= options.clock.wallMs())
    throw new Refusal('issuer-missing', `the issuer ${issuer.subject} or its anchor has expired`);
  return issuer;
}

async function issue(
  issuer: CertificateIssuer,
  leaf: Parameters<CertificateIssuer['issue']>[0],
): Promise<IssuedLeaf> {
  try {
    return await issuer.issue(leaf);
  } catch (error) {
    throw new Refusal('issuing-failed', errorMessage(error));
  }
}

const timestamp = (ms: number): NonNullable<CertifyResponse['validUntil']> => ({
  seconds: BigInt(Math.floor(ms / 1000)),
  nanos: (ms % 1000) * 1_000_000,
});

/** The gRPC service over `createCertify`; counts and logs what is refused. */
export function createIdentityService(options: CertifyOptions): Handlers<typeof IdentityService> {
  const certify = createCertify(options);
  const { log } = options;
  return {
    async certify(request, call) {
      try {
        const response = await certify(request);
        options.onResult('issued');
        return response;
      } catch (error) {
        const refusal =
          error instanceof Refusal ? error : new Refusal('issuing-failed', 'an internal error, see the log');
        if (refusal !== error) log.error({ error: errorMessage(error) }, 'certify failed');
        options.onResult(refusal.rule);
        const fields = {
          identity: request.identity.slice(0, 253),
          rule: refusal.rule,
          reason: refusal.message,
          client: call.peer,
        };
        if (refusal.retry) log.info(fields, 'no certificate yet');
        else log.warn(fields, 'certificate refused');
        throw new CallError(refusal.code, `${refusal.rule}: ${refusal.message}`, {
          [RULE_METADATA]: refusal.rule,
        });
      }
    },
  };
}
