// SPDX-License-Identifier: Apache-2.0
// Keeps a certificate for each wanted identity: gets it, renews it at 70 % of its lifetime, and keeps the old one to
// its end when that fails. Keys live in memory only. Used by the agent for its pods, by destination for itself.
//
//   wanted -> asking -> held -> (70 %) asking -> held …      asking fails: waits, asking again; what is held stays

import { readFileSync } from 'node:fs';
import type { Interceptor } from '@grpc/grpc-js';
import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { createConcurrency } from '#lib/core/concurrency.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { watchFiles } from '#lib/files/watch-files.ts';
import type { DialFailure } from '#lib/grpc/client.ts';
import { parseCertificates } from '#lib/x509/verify.ts';
import { type Certificate, createCertifier, leadsToAnchor } from './certify.ts';
import { renewalDelayMs, retryDelayMs } from './renewal.ts';

export type { Certificate } from './certify.ts';

export interface CertificatesOptions {
  /** `ip:port` or `name:port` of the identity service, or several with commas between. */
  readonly identityAddress: string;
  /** The TLS identity that the service must prove. */
  readonly identityName: string;
  /** Read again for every call. */
  readonly tokenFile: string;
  /** Read when made, and again when it changes. */
  readonly anchorsFile: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Of an earlier process: those that still hold are used, as if just received, when they are wanted. */
  readonly restored?: readonly HeldCertificate[];
  readonly callsAtOnceMax?: number;
  readonly anchorsIntervalMs?: number;
  /** Sees each call to the identity service. */
  readonly interceptor?: Interceptor;
  /** Hears of each dial to it that failed. */
  readonly onDialFailure?: (failure: DialFailure) => void;
}

/** What became of the asking for one identity's certificate, for metrics. */
export interface Refreshes {
  ok: number;
  failed: number;
  /** When the last certificate came; 0: none did. */
  lastAtMs: number;
}

/** With what became of the asking for it, which a later process goes on counting; earlier ones did not keep that. */
export interface HeldCertificate extends Certificate {
  readonly refreshes?: Readonly<Refreshes>;
}

export interface Certificates {
  /** Begins to keep a certificate for the identity. Idempotent. */
  want(identity: string): void;
  /** Forgets the identity, its certificate and key. */
  drop(identity: string): void;
  /** The certificate in force; undefined before the first one and after the last one has ended. */
  get(identity: string): Certificate | undefined;
  /** Resolves once there is a certificate; rejects if the identity is not wanted or dropped meanwhile. */
  ready(identity: string): Promise<Certificate>;
  /** Undefined for an identity that is not wanted. */
  refreshes(identity: string): Readonly<Refreshes> | undefined;
  /** Every certificate in force. */
  held(): readonly HeldCertificate[];
  /** Tells of every new certificate. Returns the way to stop listening. */
  onChange(listener: (certificate: Certificate) => void): () => void;
  /** The trust anchors in force, PEM. */
  anchorsPem(): string;
  onAnchors(listener: (anchorsPem: string) => void): () => void;
  close(): void;
}

/** How often it is looked whether the wall clock was set. */
const CLOCK_CHECK_MS = 10_000;
/** Of what is left at the renewal; less than that before it was due means that the clock was set. */
const CLOCK_SET_SHARE = 0.9;

interface Waiter {
  readonly resolve: (certificate: Certificate) => void;
  readonly reject: (error: unknown) => void;
}

interface Entry {
  readonly identity: string;
  certificate: Certificate | undefined;
  failures: number;
  readonly refreshes: Refreshes;
  asking: boolean;
  timer: Timer | undefined;
  waiters: Waiter[];
}

export function createCertificates(options: CertificatesOptions): Certificates {
  const { clock, random, log } = options;
  let anchorsPem = readAnchors(options.anchorsFile);
  const entries = new Map<string, Entry>();
  const listeners = new Set<(certificate: Certificate) => void>();
  const anchorListeners = new Set<(anchorsPem: string) => void>();
  const certifier = createCertifier({ ...options, anchorsPem: () => anchorsPem });
  const concurrency = createConcurrency({
    what: 'certificate calls',
    runningMax: options.callsAtOnceMax ?? 8,
    waitingMax: 10_000,
  });
  const restored = new Map((options.restored ?? []).map((one) => [one.identity, one]));
  const usable = (certificate: Certificate): boolean =>
    certificate.notAfterMs > clock.wallMs() && leadsToAnchor(certificate, anchorsPem, clock.wallMs());
  const isWanted = (entry: Entry): boolean => entries.get(entry.identity) === entry;

  const again = (entry: Entry, delayMs: number): void => {
    entry.timer?.cancel();
    entry.timer = clock.after(delayMs, () => void ask(entry));
  };
  /** When it is due, or sooner if the wall clock was set forwards and little of the lifetime is left by it. */
  const renewLater = (entry: Entry, certificate: Certificate, dueMs: number, leastMs: number): void => {
    entry.timer?.cancel();
    const leftMs = dueMs - clock.nowMs();
    if (leftMs <= 0 || certificate.notAfterMs - clock.wallMs() < leastMs) {
      void ask(entry);
      return;
    }
    entry.timer = clock.after(Math.min(leftMs, CLOCK_CHECK_MS), () =>
      renewLater(entry, certificate, dueMs, leastMs),
    );
  };
  const publish = (entry: Entry, certificate: Certificate, origin = 'certificate received'): void => {
    entry.certificate = certificate;
    entry.failures = 0;
    log.info(
      { identity: entry.identity, validUntil: new Date(certificate.notAfterMs).toISOString() },
      origin,
    );
    for (const waiter of entry.waiters.splice(0)) waiter.resolve(certificate);
    for (const listener of listeners) listener(certificate);
    const remainingMs = certificate.notAfterMs - clock.wallMs();
    const delayMs = renewalDelayMs(remainingMs, random);
    renewLater(entry, certificate, clock.nowMs() + delayMs, (remainingMs - delayMs) * CLOCK_SET_SHARE);
  };
  const ask = async (entry: Entry): Promise<void> => {
    if (!isWanted(entry) || entry.asking) return;
    entry.asking = true;
    try {
      const certificate = await concurrency.run(async () =>
        // Dropped while it waited for its turn: nothing to ask for.
        isWanted(entry) ? await certifier.certify(entry.identity) : undefined,
      );
      if (certificate !== undefined && isWanted(entry)) {
        entry.refreshes.ok++;
        entry.refreshes.lastAtMs = clock.wallMs();
        publish(entry, certificate);
      }
    } catch (error) {
      if (!isWanted(entry)) return;
      entry.failures++;
      entry.refreshes.failed++;
      const delayMs = retryDelayMs(entry.failures, retryMaxMs(error), random);
      logFailure(entry, error, delayMs);
      again(entry, delayMs);
    } finally {
      entry.asking = false;
    }
  };
  const logFailure = (entry: Entry, error: unknown, delayMs: number): void => {
    const held = entry.certificate;
    const fields = {
      identity: entry.identity,
      code: error instanceof MeshError ? error.code : undefined,
      reason: errorMessage(error),
      failures: entry.failures,
      retryInMs: Math.round(delayMs),
    };
    if (held === undefined) return log.warn(fields, 'no certificate yet');
    const validUntil = new Date(held.notAfterMs).toISOString();
    if (held.notAfterMs > clock.wallMs())
      log.warn({ ...fields, validUntil }, 'certificate not renewed, the old one stays in use');
    else log.error({ ...fields, validUntil }, 'certificate has expired and is not renewed');
  };

  const watch = watchFiles({
    files: { anchors: options.anchorsFile },
    known: { anchors: anchorsPem },
    clock,
    intervalMs: options.anchorsIntervalMs ?? 5000,
    onChange({ anchors }) {
      checkAnchors(anchors, options.anchorsFile);
      anchorsPem = anchors;
      log.info({ file: options.anchorsFile }, 'trust anchors changed');
      for (const listener of anchorListeners) listener(anchors);
      for (const entry of entries.values()) {
        if (entry.certificate !== undefined && !leadsToAnchor(entry.certificate, anchors, clock.wallMs()))
          again(entry, 0);
      }
    },
    onError: (error) =>
      log.error({ reason: errorMessage(error) }, 'trust anchors not usable, the old ones stay in use'),
  });

  return {
    want(identity) {
      if (entries.has(identity)) return;
      const earlier = restored.get(identity);
      restored.delete(identity);
      const entry: Entry = {
        identity,
        certificate: undefined,
        failures: 0,
        refreshes: { ok: 0, failed: 0, lastAtMs: 0, ...earlier?.refreshes },
        asking: false,
        timer: undefined,
        waiters: [],
      };
      entries.set(identity, entry);
      if (earlier !== undefined && usable(earlier)) publish(entry, earlier, 'certificate taken over');
      else void ask(entry);
    },
    drop(identity) {
      const entry = entries.get(identity);
      entries.delete(identity);
      if (entry !== undefined) forget(entry);
    },
    get: (identity) => inForce(entries.get(identity), clock),
    ready(identity) {
      const entry = entries.get(identity);
      if (entry === undefined)
        return Promise.reject(new MeshError('MESH_NOT_FOUND', `no certificate of ${identity} is wanted`));
      const certificate = inForce(entry, clock);
      if (certificate !== undefined) return Promise.resolve(certificate);
      return new Promise((resolve, reject) => entry.waiters.push({ resolve, reject }));
    },
    refreshes: (identity) => entries.get(identity)?.refreshes,
    held: () =>
      [...entries.values()].flatMap((entry) => {
        const certificate = inForce(entry, clock);
        return certificate === undefined ? [] : { ...certificate, refreshes: entry.refreshes };
      }),
    onChange: (listener) => subscribe(listeners, listener),
    anchorsPem: () => anchorsPem,
    onAnchors: (listener) => subscribe(anchorListeners, listener),
    close() {
      watch.close();
      const all = [...entries.values()];
      entries.clear();
      for (const entry of all) forget(entry);
      certifier.close();
    },
  };
}

/** What only needs a moment is asked again soon; what was refused stays refused until somebody changes something. */
function retryMaxMs(error: unknown): number {
  if (!(error instanceof MeshError)) return 30_000;
  if (error.code === 'MESH_IDENTITY_RETRY') return 1000;
  return error.code === 'MESH_IDENTITY_UNAVAILABLE' ? 5000 : 30_000;
}

function forget(entry: Entry): void {
  entry.timer?.cancel();
  entry.certificate = undefined;
  const error = new MeshError(
    'MESH_NOT_FOUND',
    `the certificate of ${entry.identity} is not wanted any more`,
  );
  for (const waiter of entry.waiters.splice(0)) waiter.reject(error);
}

function inForce(entry: Entry | undefined, clock: Clock): Certificate | undefined {
  const certificate = entry?.certificate;
  return certificate !== undefined && certificate.notAfterMs > clock.wallMs() ? certificate : undefined;
}

function subscribe<T>(listeners: Set<T>, listener: T): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function readAnchors(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw MeshError.from(error, 'MESH_CONFIG_INVALID', `cannot read the trust anchors ${file}`);
  }
  checkAnchors(text, file);
  return text;
}

function checkAnchors(pem: string, file: string): void {
  if (parseCertificates(pem, `the trust anchors ${file}`).length === 0)
    throw new MeshError('MESH_CERTIFICATE_INVALID', `${file} holds no trust anchor`);
}
