// SPDX-License-Identifier: Apache-2.0
// Speaks to the keeper (keeper/keeper.c; docs/reference/keeper-protocol.md): the process that holds duplicates of the
// pods' listeners and the agent's last snapshot while agents come and go. Synchronous: the keeper is on this machine
// and answers in microseconds; one that does not answer in time is given up.

import { MeshError } from '#lib/core/errors.ts';

export interface KeptDescriptor {
  readonly key: string;
  readonly meta: Buffer;
  readonly fd: number;
}

export type Role = 'holder' | 'other' | 'nobody';

export interface KeeperStats {
  readonly entries: number;
  readonly entriesMax: number;
  readonly clients: number;
  /** How long ago the last beat that counted was; undefined: nobody holds. */
  readonly holderAgeMs: number | undefined;
  readonly limitMs: number;
  /** Listeners that were shut down because no beat came in time. */
  readonly shutdowns: number;
  readonly refused: number;
  /** Clients that were dropped because they did not read. */
  readonly dropped: number;
  readonly blobBytes: number;
  readonly uptimeMs: number;
}

export interface KeeperClient {
  /** All kept descriptors (the caller owns the duplicates) and the last blob. */
  list(): { readonly descriptors: readonly KeptDescriptor[]; readonly blob: Buffer | undefined };
  /** Keeps a duplicate of a listening socket; replaces an entry of the same key. The caller's own stays open. */
  put(key: string, meta: Buffer, fd: number): void;
  /** Forgets every entry whose key begins so, without shutting it down. Answers how many there were. */
  remove(prefix: string): number;
  /** Replaces the blob by a sealed copy of `bytes`. */
  setBlob(bytes: Buffer): void;
  /** Makes this connection the holder, whoever was it before. Counts as a beat. */
  hold(): void;
  /** Says that the holder lives, and who that is. Only the holder's beats count. */
  beat(): Role;
  stats(): KeeperStats;
  /** True after `close`, and after a failure that leaves the conversation in doubt: connect anew. */
  readonly closed: boolean;
  close(): void;
}

/** Throws MESH_KEEPER_UNAVAILABLE (retryable) or MESH_KEEPER_REFUSED. So does every method of the client. */
export function connectKeeper(path: string, options: { readonly timeoutMs: number }): KeeperClient {
  throw new MeshError('MESH_KEEPER_UNAVAILABLE', `the keeper at ${path} (${options.timeoutMs} ms)`, {
    retryable: true,
  });
}
