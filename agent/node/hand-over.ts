// SPDX-License-Identifier: Apache-2.0
// What an agent does when another agent of its node takes the role over, and when it gets it back. One of the two
// accepts, writes (kernel, lists, snapshot), reports and answers on the node's port; the other finishes what it has.

import type { Log } from '#lib/core/log.ts';
import type { Keeper } from './keeper.ts';
import type { KeptListeners } from './kept-listeners.ts';
import type { KernelRedirection } from './redirection.ts';
import { decodeSnapshot, type Snapshot } from './snapshot.ts';

/** What belongs to the role; each can be given up and taken again. */
export interface RolePart {
  readonly name: string;
  giveUp(): void | Promise<void>;
  take(): void | Promise<void>;
}

/** What another agent of the node left; listeners of pods that are `known` here are here already. */
export function takeKept(
  keeper: Pick<Keeper, 'take'>,
  listeners: Pick<KeptListeners, 'load'>,
  known: (uid: string) => boolean,
  log: Log,
): Snapshot | undefined {
  const kept = keeper.take();
  listeners.load(kept.listeners, known);
  if (kept.snapshot === undefined) return undefined;
  const decoded = decodeSnapshot(kept.snapshot);
  if (decoded.outcome === 'read') return decoded.snapshot;
  log.warn({ reason: decoded.reason }, 'the snapshot of the earlier agent is not used');
  return undefined;
}

type Checks = Pick<KernelRedirection, 'checkNode' | 'checkInflight' | 'podChecks' | 'unsound'>;

/** The self-check of the agent that does not hold the role finds nothing to compare: the other one writes. */
export function whileHolding(redirection: Checks, holding: () => boolean): Checks {
  return {
    checkNode: () => (holding() ? redirection.checkNode() : []),
    unsound: () => (holding() ? redirection.unsound() : []),
    podChecks: () => (holding() ? redirection.podChecks() : []),
    *checkInflight() {
      return holding() ? yield* redirection.checkInflight() : [];
    },
  };
}

export interface HandOverOptions {
  /** Given up in this order, taken in it too. */
  readonly parts: readonly RolePart[];
  /** The end: resolves when nothing is left to finish, or the time is over. */
  readonly drain: () => Promise<void>;
  /** Drained without having got the role back. */
  readonly done: () => void;
  readonly failed: (part: string, error: unknown) => void;
  readonly log: Log;
}

export interface HandOver {
  change(role: 'holder' | 'standby'): void;
}

export function createHandOver(options: HandOverOptions): HandOver {
  const { parts, drain, done, failed, log } = options;
  /** Each change waits for the one before it. */
  let queue: Promise<void> = Promise.resolve();
  let standing = 0;

  const each = async (act: (part: RolePart) => void | Promise<void>): Promise<void> => {
    for (const part of parts) {
      try {
        await act(part);
      } catch (error) {
        failed(part.name, error);
      }
    }
  };

  return {
    change(role) {
      const mine = ++standing;
      queue = queue.then(async () => {
        if (role === 'holder') {
          await each((part) => part.take());
          log.info({}, 'this agent serves the node again');
          return;
        }
        await each((part) => part.giveUp());
        // Not waited for: the role may come back meanwhile.
        void drain().then(() => {
          if (standing === mine) done();
        });
      });
    },
  };
}
