// SPDX-License-Identifier: Apache-2.0
// The identity service's own metrics.

import { collectDefaultMetrics, Counter, Gauge, type Registry } from 'prom-client';
import type { Clock } from '#lib/core/clock.ts';
import { countLimits } from '#lib/grpc/limit-metrics.ts';
import type { GrpcLimit } from '#lib/grpc/server-connection.ts';
import type { CertificateIssuer } from '#lib/x509-authority/issuer.ts';
import { type CertifyRule, certifyRules } from './rules.ts';

export interface IdentityMetrics {
  count(result: 'issued' | CertifyRule): void;
  /** A client of the gRPC server has come to a limit. */
  readonly limitReached: (limit: GrpcLimit) => void;
}

export function createIdentityMetrics(
  register: Registry,
  issuer: () => CertificateIssuer,
  clock: Clock,
): IdentityMetrics {
  collectDefaultMetrics({ register });
  const registers = [register];
  const certified = new Counter({
    name: 'identity_certify_total',
    help: 'Answers of Certify: issued, or the rule that was against it.',
    labelNames: ['result'],
    registers,
  });
  // Every series exists from the start, so that a rate over its first increment is right.
  for (const result of ['issued', ...Object.keys(certifyRules)]) certified.inc({ result }, 0);
  const ttl: Gauge = new Gauge({
    name: 'issuer_cert_ttl_seconds',
    help: "Seconds until the first certificate of the issuer's chain ends; negative afterwards.",
    registers,
    collect: () => ttl.set(Math.round((issuer().notAfterMs - clock.wallMs()) / 1000)),
  });
  return { count: (result) => certified.inc({ result }), limitReached: countLimits(register) };
}
