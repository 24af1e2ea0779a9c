// SPDX-License-Identifier: Apache-2.0
// The identity service's own TLS certificate: nobody else can issue it, so it takes it from its own issuer, and
// renews it in time and whenever the issuer changes.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { renewalDelayMs, retryDelayMs } from '#lib/identity-client/renewal.ts';
import type { KeyAndChain } from '#lib/tls/mesh-context.ts';
import type { CertificateIssuer } from '#lib/x509-authority/issuer.ts';
import { type Leaf, makeLeaf } from '#lib/x509-authority/make-leaf.ts';

export interface OwnCertificateOptions {
  readonly identity: string;
  readonly issuer: () => CertificateIssuer;
  readonly lifetimeMs: number;
  readonly clockSkewMs: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface OwnCertificate {
  readonly current: KeyAndChain;
  onChange(listener: () => void): void;
  /** Takes a new one now. */
  renew(): Promise<void>;
  close(): void;
}

export async function createOwnCertificate(options: OwnCertificateOptions): Promise<OwnCertificate> {
  const { clock, random, log } = options;
  const listeners: (() => void)[] = [];
  let timer: Timer | undefined;
  let closed = false;
  let failures = 0;
  let current = await issueOwn(options);

  const schedule = (delayMs: number): void => {
    timer?.cancel();
    if (!closed) timer = clock.after(delayMs, () => void renewOrRetry());
  };
  const renew = async (): Promise<void> => {
    current = await issueOwn(options);
    failures = 0;
    schedule(renewalDelayMs(current.notAfterMs - clock.wallMs(), random));
    for (const listener of listeners) listener();
  };
  const renewOrRetry = async (): Promise<void> => {
    try {
      await renew();
    } catch (error) {
      log.error(
        { reason: errorMessage(error), validUntil: new Date(current.notAfterMs).toISOString() },
        "identity's own certificate not renewed, the old one stays in use",
      );
      schedule(retryDelayMs(++failures, 30_000, random));
    }
  };
  schedule(renewalDelayMs(current.notAfterMs - clock.wallMs(), random));
  return {
    get current() {
      return current;
    },
    onChange: (listener) => void listeners.push(listener),
    renew,
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}

function issueOwn(options: OwnCertificateOptions): Promise<Leaf> {
  const nowMs = options.clock.wallMs();
  return makeLeaf(options.issuer(), {
    identity: options.identity,
    notBeforeMs: nowMs - options.clockSkewMs,
    notAfterMs: nowMs + options.lifetimeMs + options.clockSkewMs,
  });
}
