// SPDX-License-Identifier: Apache-2.0
// Listeners of pods across agents: which ones an earlier agent left in the keeper, and what to keep for the next.
// The same kernel sockets go from agent to agent, so that connections in their backlogs wait instead of ending.
//
//   key = <pod uid>/<direction>/<family>/<slot>

import type { Log } from '#lib/core/log.ts';
import type { ListenerHandle } from '../proxy/model.ts';
import type { Keeper, KeptListener } from './keeper.ts';

export interface ListenerKeeper {
  /** What an earlier agent left for this pod and still listens; the receiver's from now on. */
  adopt(uid: string): readonly ListenerHandle[];
  /** The pod could not be enrolled now: they wait for the next attempt. */
  giveBack(uid: string, listeners: readonly ListenerHandle[]): void;
  keep(uid: string, listener: ListenerHandle): void;
  /** Nothing is kept for this pod any more. */
  forget(uid: string): void;
}

export interface KeptListenersOptions {
  readonly keeper: Pick<Keeper, 'put' | 'remove'>;
  readonly listens: (fd: number) => boolean;
  readonly closeDescriptor: (fd: number) => void;
  readonly log: Log;
}

export interface KeptListeners extends ListenerKeeper {
  /** Takes what the keeper has listed, in the place of an earlier list; listeners of `known` pods are here already. */
  load(listed: readonly KeptListener[], known?: (uid: string) => boolean): void;
  /** Lets go of everything that no pod has adopted; how many pods that were. */
  sweep(): number;
  /** Pods whose listeners were adopted, and listeners that did not listen any more, so far. */
  readonly counts: { adopted: number; dead: number };
}

export function createKeptListeners(options: KeptListenersOptions): KeptListeners {
  const { keeper, listens, closeDescriptor, log } = options;
  const waiting = new Map<string, ListenerHandle[]>();
  const counts = { adopted: 0, dead: 0 };
  const discard = (uid: string): void => {
    for (const { fd } of waiting.get(uid) ?? []) closeDescriptor(fd);
    waiting.delete(uid);
  };

  return {
    counts,
    load(listed, known) {
      for (const uid of waiting.keys()) discard(uid);
      for (const { key, fd } of listed) {
        const parsed = parseKey(key, fd);
        if (parsed === undefined) {
          log.warn({ key }, 'the keeper holds something that no agent of this version put there');
          closeDescriptor(fd);
          continue;
        }
        const { uid, listener } = parsed;
        if (known?.(uid) === true) {
          closeDescriptor(fd);
          continue;
        }
        const of = waiting.get(uid);
        if (of === undefined) waiting.set(uid, [listener]);
        else of.push(listener);
      }
    },
    adopt(uid) {
      const found = waiting.get(uid) ?? [];
      waiting.delete(uid);
      const alive = found.filter(({ fd }) => listens(fd));
      for (const listener of found) {
        if (alive.includes(listener)) continue;
        counts.dead++;
        closeDescriptor(listener.fd);
      }
      if (alive.length > 0) counts.adopted++;
      return alive;
    },
    giveBack: (uid, listeners) => void waiting.set(uid, [...listeners]),
    keep: (uid, { direction, family, slot, fd }) => keeper.put(`${uid}/${direction}/${family}/${slot}`, fd),
    forget(uid) {
      discard(uid);
      keeper.remove(`${uid}/`);
    },
    sweep() {
      const uids = [...waiting.keys()];
      for (const uid of uids) {
        discard(uid);
        keeper.remove(`${uid}/`);
      }
      return uids.length;
    },
  };
}

function parseKey(key: string, fd: number): { uid: string; listener: ListenerHandle } | undefined {
  const parts = /^([^/]+)\/(inbound|outbound)\/(4|6)\/(\d{1,3})$/.exec(key);
  const [, uid, direction, family, slot] = parts ?? [];
  if (uid === undefined || direction === undefined) return undefined;
  return {
    uid,
    listener: {
      direction: direction === 'inbound' ? 'inbound' : 'outbound',
      family: family === '4' ? 4 : 6,
      slot: Number(slot),
      fd,
    },
  };
}
