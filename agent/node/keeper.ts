// SPDX-License-Identifier: Apache-2.0
// The agent's side of the keeper: what the keeper shall hold (listeners and the snapshot), kept true across the
// keeper's own restarts, and which of two agents of one node holds the role. Decides nothing about pods.
//
//   starting ── hold() ──> holder ── another agent holds ──> standby ── that one is gone ──> holder
//
// Without a keeper the agent works on; only a restart costs connections then.

import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { KeeperClient } from '#lib/keeper/client.ts';
import type { KeeperStats } from '#lib/keeper/wire.ts';
import { createBackOff } from './back-off.ts';

const BEAT_MS = 1_000;
/** A keeper that was started anew knows no holder: the holder of before comes back before one that stood by. */
const NOBODY_BEATS = 5;

export type AgentRole = 'starting' | 'holder' | 'standby';

/** One kept listener; the descriptor belongs to the receiver. */
export interface KeptListener {
  readonly key: string;
  readonly fd: number;
}

export interface Kept {
  readonly listeners: readonly KeptListener[];
  readonly snapshot: Buffer | undefined;
}

export interface KeeperOptions {
  /** Throws while there is no keeper. */
  readonly connect: () => KeeperClient;
  /** The snapshot as it is now; asked for at most once a second, by the holder. */
  readonly snapshot: () => Buffer;
  /** Another agent has taken the role, or given it back. */
  readonly onRole: (role: 'holder' | 'standby') => void;
  /** A holder found that the keeper no longer knew it: listeners may have been shut down. */
  readonly onForgotten: () => void;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface Keeper {
  readonly connected: boolean;
  readonly role: AgentRole;
  /** Connections to the keeper that failed or broke, and snapshots that it did not take. */
  readonly failures: number;
  /** Connections to a keeper after the first one. */
  readonly reconnects: number;
  /** What the keeper says of itself; undefined if there is none. */
  stats(): KeeperStats | undefined;
  /** Size of the last snapshot and what its making cost. */
  readonly lastSnapshot: { readonly bytes: number; readonly ms: number };
  /** What an earlier agent left; nothing if there is no keeper. */
  take(): Kept;
  put(key: string, fd: number): void;
  /** Forgets every key that begins so. */
  remove(prefix: string): void;
  /** What the snapshot is made of has changed. */
  touch(): void;
  /** This agent serves: it claims the role. */
  hold(): void;
  /** Never takes the role back: the agent is about to end. */
  retire(): void;
  /** Writes an outstanding snapshot and leaves; what is kept stays kept. */
  close(): void;
}

export function createKeeper(options: KeeperOptions): Keeper {
  return new SelfHealingKeeper(options);
}

const NO_META = Buffer.alloc(0);

class SelfHealingKeeper implements Keeper {
  readonly #options: KeeperOptions;
  readonly #backOff;
  readonly #wanted = new Map<string, number>();
  /** Prefixes that were to be forgotten while there was no keeper to be told. */
  #unsaid: string[] = [];
  #client: KeeperClient | undefined;
  #role: AgentRole = 'starting';
  #failures = 0;
  #connections = 0;
  #dirty = true;
  /** Beats in a row by which nobody held the role. */
  #nobody = 0;
  /** On this connection another holder was seen. */
  #sawOther = false;
  #retired = false;
  #timer: Timer | undefined;
  #closed = false;
  #saidAway = false;
  lastSnapshot = { bytes: 0, ms: 0 };

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#backOff = createBackOff(options.random);
    this.#connect();
  }

  get connected(): boolean {
    return this.#client !== undefined;
  }

  get role(): AgentRole {
    return this.#role;
  }

  get failures(): number {
    return this.#failures;
  }

  get reconnects(): number {
    return Math.max(0, this.#connections - 1);
  }

  stats(): KeeperStats | undefined {
    let stats: KeeperStats | undefined;
    this.#attempt((client) => {
      stats = client.stats();
    });
    return stats;
  }

  take(): Kept {
    let kept: Kept = { listeners: [], snapshot: undefined };
    this.#attempt((client) => {
      const { descriptors, blob } = client.list();
      kept = { listeners: descriptors.map(({ key, fd }) => ({ key, fd })), snapshot: blob };
    });
    return kept;
  }

  put(key: string, fd: number): void {
    this.#wanted.set(key, fd);
    if (this.#role !== 'standby') this.#attempt((client) => client.put(key, NO_META, fd));
  }

  remove(prefix: string): void {
    for (const key of this.#wanted.keys()) if (key.startsWith(prefix)) this.#wanted.delete(key);
    if (this.#role === 'standby') return;
    if (this.#client === undefined) this.#unsaid.push(prefix);
    else this.#attempt((client) => client.remove(prefix));
  }

  touch(): void {
    this.#dirty = true;
  }

  hold(): void {
    if (this.#role === 'holder') return;
    this.#role = 'holder';
    this.#dirty = true;
    this.#attempt((client) => client.hold());
  }

  retire(): void {
    this.#retired = true;
  }

  close(): void {
    if (this.#closed) return;
    if (this.#role === 'holder') this.#attempt((client) => this.#writeSnapshot(client));
    this.#closed = true;
    this.#timer?.cancel();
    this.#client?.close();
    this.#client = undefined;
  }

  #connect(): void {
    const { clock, connect, log } = this.#options;
    try {
      this.#client = connect();
    } catch (error) {
      this.#lost(error);
      return;
    }
    this.#connections++;
    this.#backOff.reset();
    this.#sawOther = false;
    this.#nobody = 0;
    if (this.#saidAway) log.info({}, 'the keeper is back');
    this.#saidAway = false;
    if (this.#role === 'holder') {
      this.#attempt((client) => {
        // Somebody else may have taken the role while the connection was away.
        if (client.beat() === 'other') this.#replaced();
        else this.#tellAll(client);
      });
    }
    if (this.#client !== undefined) this.#timer = clock.after(BEAT_MS, () => this.#beat());
  }

  #lost(error: unknown): void {
    const { clock, log } = this.#options;
    this.#failures++;
    this.#timer?.cancel();
    this.#client?.close();
    this.#client = undefined;
    if (!this.#saidAway) {
      this.#saidAway = true;
      log.warn(
        { error: errorMessage(error) },
        'no keeper: the agent works on, but connections would be refused while it restarts',
      );
    }
    if (!this.#closed) this.#timer = clock.after(this.#backOff.nextMs(), () => this.#connect());
  }

  #attempt(what: (client: KeeperClient) => void): void {
    const client = this.#client;
    if (client === undefined || this.#closed) return;
    try {
      what(client);
    } catch (error) {
      if (client.closed || !(error instanceof MeshError)) {
        this.#lost(error);
        return;
      }
      // Only this was refused: a limit of the keeper's.
      this.#failures++;
      this.#options.log.warn({ error: errorMessage(error) }, 'the keeper did not take something');
    }
  }

  /** To a keeper that may know nothing, or what was before. */
  #tellAll(client: KeeperClient): void {
    client.hold();
    for (const prefix of this.#unsaid.splice(0)) client.remove(prefix);
    for (const [key, fd] of this.#wanted) this.#attempt(() => client.put(key, NO_META, fd));
    // What was written once is written at once: an agent that is started now would find listeners and know no pod of them.
    if (this.lastSnapshot.bytes > 0) this.#writeSnapshot(client);
    else this.#dirty = true;
  }

  #beat(): void {
    this.#attempt((client) => {
      if (this.#role === 'holder' && this.#dirty) this.#writeSnapshot(client);
      switch (client.beat()) {
        case 'holder':
          this.#nobody = 0;
          break;
        case 'other':
          this.#nobody = 0;
          this.#sawOther = true;
          if (this.#role === 'holder') this.#replaced();
          break;
        case 'nobody':
          this.#nobodyHolds(client);
          break;
      }
    });
    if (this.#client !== undefined && !this.#closed) {
      this.#timer = this.#options.clock.after(BEAT_MS, () => this.#beat());
    }
  }

  #nobodyHolds(client: KeeperClient): void {
    const { log, onForgotten, onRole } = this.#options;
    this.#nobody++;
    if (this.#role === 'holder') {
      // Its own limit was over (this process was stopped, or very busy): it has shut our listeners down.
      log.warn({}, 'the keeper had given this agent up; listeners are checked and kept anew');
      this.#tellAll(client);
      onForgotten();
      return;
    }
    if (this.#role !== 'standby' || this.#retired) return;
    if (!this.#sawOther && this.#nobody < NOBODY_BEATS) return;
    log.warn({}, 'the agent that took over is gone; this one takes the role back');
    client.hold();
    this.#sawOther = false;
    this.#role = 'holder';
    this.#dirty = true;
    onRole('holder');
  }

  #replaced(): void {
    this.#role = 'standby';
    this.#sawOther = true;
    this.#options.log.info({}, 'another agent of this node serves now; this one takes no new connections');
    this.#options.onRole('standby');
  }

  #writeSnapshot(client: KeeperClient): void {
    const { clock, snapshot } = this.#options;
    const begun = clock.nowMs();
    this.#dirty = false;
    const bytes = snapshot();
    client.setBlob(bytes);
    this.lastSnapshot = { bytes: bytes.length, ms: clock.nowMs() - begun };
  }
}
