// SPDX-License-Identifier: Apache-2.0
// Which replica does what only one may do: whoever holds a Lease of coordination.k8s.io. The Lease itself is part of
// the installation, so that no replica needs the right to make one.
//
// Wall clocks differ: how old a renewal is, each replica measures by its own clock from the moment at which it saw it.
// A holder that could not renew lets go before anybody else can take over.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { KubernetesApi } from './api-client.ts';
import { ApiFailure } from './api-failure.ts';

export interface LeaseTimings {
  /** After so long without a renewal another replica takes over. */
  readonly durationMs: number;
  /** A holder that could not renew for so long does nothing any more. */
  readonly renewWithinMs: number;
  readonly intervalMs: number;
}

export const defaultLeaseTimings: LeaseTimings = {
  durationMs: 15_000,
  renewWithinMs: 10_000,
  intervalMs: 2000,
};

export interface LeaseOptions {
  readonly api: KubernetesApi;
  readonly namespace: string;
  readonly name: string;
  /** Unique among the replicas: the pod's name. */
  readonly holder: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly onChange: (leading: boolean) => void;
  readonly timings?: LeaseTimings;
}

export interface Lease {
  readonly leading: boolean;
  /** Lets go, so that another replica takes over at once. */
  close(): Promise<void>;
}

interface LeaseObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly resourceVersion?: string };
  readonly spec?: {
    readonly holderIdentity?: string | null;
    readonly leaseDurationSeconds?: number | null;
    readonly leaseTransitions?: number | null;
    readonly acquireTime?: string | null;
    readonly renewTime?: string | null;
  };
}

export function startLease(options: LeaseOptions): Lease {
  const lease = new KeptLease(options);
  void lease.run();
  return lease;
}

class KeptLease implements Lease {
  readonly #options: LeaseOptions;
  readonly #timings: LeaseTimings;
  readonly #path: string;
  leading = false;
  /** The last renewal seen, by whomever, and when. */
  #seen = '';
  #seenMs = 0;
  /** Before the call that renewed. */
  #renewedMs = 0;
  #end: Timer | undefined;
  #next: Timer | undefined;
  #closed = false;
  #running: Promise<void> = Promise.resolve();
  #failing = false;

  constructor(options: LeaseOptions) {
    this.#options = options;
    this.#timings = options.timings ?? defaultLeaseTimings;
    this.#path = `/apis/coordination.k8s.io/v1/namespaces/${options.namespace}/leases/${options.name}`;
  }

  async run(): Promise<void> {
    const { clock, random, log, name } = this.#options;
    this.#running = this.#tryOnce();
    try {
      await this.#running;
      this.#failing = false;
    } catch (error) {
      // Another replica was quicker: no failure.
      const lost = error instanceof ApiFailure && error.status === 409;
      if (!lost && !this.#failing) {
        this.#failing = true;
        log.warn({ lease: name, reason: errorMessage(error) }, 'the lease cannot be looked after');
      }
    }
    if (this.#closed) return;
    this.#next = clock.after(this.#timings.intervalMs * (0.75 + random() / 2), () => void this.run());
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#next?.cancel();
    await this.#running.catch(() => undefined);
    const held = this.leading;
    this.#setLeading(false);
    if (!held) return;
    try {
      const found = await this.#read();
      if (found.spec?.holderIdentity === this.#options.holder) {
        await this.#write(found, { ...found.spec, holderIdentity: '', leaseDurationSeconds: 1 });
      }
    } catch (error) {
      const { log, name } = this.#options;
      log.warn({ lease: name, reason: errorMessage(error) }, 'the lease was not let go of: it runs out');
    }
  }

  async #tryOnce(): Promise<void> {
    const { clock, holder } = this.#options;
    const { durationMs } = this.#timings;
    const found = await this.#read();
    const spec = found.spec ?? {};
    const present = `${spec.holderIdentity ?? ''} ${spec.renewTime ?? ''} ${spec.leaseTransitions ?? 0}`;
    if (present !== this.#seen) {
      this.#seen = present;
      this.#seenMs = clock.nowMs();
    }
    const mine = spec.holderIdentity === holder;
    const free = (spec.holderIdentity ?? '') === '';
    const lastsMs = (spec.leaseDurationSeconds ?? 0) * 1000 || durationMs;
    if (!mine && !free && clock.nowMs() - this.#seenMs < lastsMs) {
      this.#setLeading(false);
      return;
    }
    const now = new Date(clock.wallMs()).toISOString().replace('Z', '000Z');
    const beganMs = clock.nowMs();
    await this.#write(found, {
      holderIdentity: holder,
      leaseDurationSeconds: Math.ceil(durationMs / 1000),
      acquireTime: mine ? (spec.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions: (spec.leaseTransitions ?? 0) + (mine ? 0 : 1),
    });
    this.#renewedMs = beganMs;
    if (!this.#closed) this.#setLeading(true);
  }

  /** Leading ends by itself, also while a call hangs. */
  #setLeading(leading: boolean): void {
    const { clock, log, name, holder, onChange } = this.#options;
    this.#end?.cancel();
    if (leading) {
      const leftMs = this.#renewedMs + this.#timings.renewWithinMs - clock.nowMs();
      this.#end = clock.after(Math.max(0, leftMs), () => this.#setLeading(false));
    }
    if (leading === this.leading) return;
    this.leading = leading;
    log.info({ lease: name, holder }, leading ? 'this replica leads' : 'this replica leads no longer');
    onChange(leading);
  }

  async #read(): Promise<LeaseObject> {
    const timeoutMs = this.#timings.renewWithinMs / 2;
    return (await this.#options.api.call({ path: this.#path, timeoutMs })) as LeaseObject;
  }

  /** Fails with 409 if somebody else has written since it was read. */
  async #write(found: LeaseObject, spec: NonNullable<LeaseObject['spec']>): Promise<void> {
    const timeoutMs = this.#timings.renewWithinMs / 2;
    await this.#options.api.call({ method: 'PUT', path: this.#path, timeoutMs, body: { ...found, spec } });
  }
}
