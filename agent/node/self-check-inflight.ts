// SPDX-License-Identifier: Apache-2.0
// The kernel's notes about unfinished handshakes: removes those whose socket is long gone and holds the counts to what
// is there. The programs change both meanwhile, so a count is corrected only by what two runs agree on.

import { counterRows, encodeCookie, readU64, structs, u32, u64 } from '#lib/bpf/abi.ts';
import type { BpfMap } from '#lib/bpf/loader.ts';
import type { Difference } from './self-check-difference.ts';

/** By how much each pod's count (and the node's, under `undefined`) was too high at the last run. */
export type InflightDrift = Map<bigint | undefined, bigint>;

export interface InflightOptions {
  readonly inflight: BpfMap;
  readonly load: BpfMap;
  readonly counters: BpfMap;
  /** Of the pods that are redirected. */
  readonly cookies: () => readonly bigint[];
  readonly staleMs: number;
  readonly drift: InflightDrift;
}

const KEYS_PER_TURN = 256;
/** The kernel begins again when the key it was to go on from is gone; so the turns are counted. */
const TURNS_MAX = 512;

export function* checkInflight(options: InflightOptions): Generator<undefined, Difference[]> {
  const { inflight, load, counters, drift } = options;
  const { fields } = structs.nm_record;
  const row = u32(counterRows.indexOf('inflight'));
  const seen = new Map<string, bigint>();
  let removed = 0;
  let after: Buffer | undefined;
  for (let turn = 0; turn < TURNS_MAX; turn++) {
    const keys = inflight.keysAfter(after, KEYS_PER_TURN);
    const oldest = process.hrtime.bigint() - BigInt(options.staleMs) * 1_000_000n;
    after = undefined;
    for (const key of keys) {
      const record = inflight.lookup(key);
      if (record === undefined) continue;
      const cookie = readU64(record, fields.netns_cookie);
      if (readU64(record, fields.since_ns) >= oldest) {
        seen.set(key.toString('latin1'), cookie);
        after = key;
      } else if (inflight.delete(key)) {
        removed++;
        lower(load, encodeCookie(cookie));
        lower(counters, row);
      }
    }
    if (keys.length < KEYS_PER_TURN) break;
    yield undefined;
  }

  const found: Difference[] = [];
  if (removed > 0) {
    const message = `${removed} unfinished handshakes had lost their socket`;
    found.push({ check: 'node-inflight', repaired: true, message });
  }
  const perPod = new Map<bigint, bigint>();
  for (const cookie of seen.values()) perPod.set(cookie, (perPod.get(cookie) ?? 0n) + 1n);
  let pods = 0;
  for (const cookie of options.cookies())
    if (correct(load, encodeCookie(cookie), perPod.get(cookie) ?? 0n, drift, cookie)) pods++;
  if (pods > 0) {
    const message = `the count of unfinished handshakes of ${pods} pods was wrong`;
    found.push({ check: 'pod-load', repaired: true, message });
  }
  if (correct(counters, row, BigInt(seen.size), drift, undefined)) {
    const message = "the node's count of unfinished handshakes was wrong";
    found.push({ check: 'node-inflight', repaired: true, message });
  }
  return found;
}

function lower(map: BpfMap, key: Buffer): void {
  const value = map.lookup(key);
  if (value !== undefined) map.update(key, u64(BigInt.asUintN(64, readU64(value, 0) - 1n)));
}

/** True if the count was wrong and is right again. */
function correct(
  map: BpfMap,
  key: Buffer,
  actual: bigint,
  drift: InflightDrift,
  id: bigint | undefined,
): boolean {
  const value = map.lookup(key);
  if (value === undefined) {
    map.update(key, u64(actual));
    return true;
  }
  const now = BigInt.asIntN(64, readU64(value, 0));
  const off = now - actual;
  const before = drift.get(id) ?? 0n;
  const steady = sameSign(off, before) ? smaller(off, before) : 0n;
  drift.set(id, off - steady);
  if (steady === 0n) return false;
  map.update(key, u64(BigInt.asUintN(64, now - steady)));
  return true;
}

const sameSign = (a: bigint, b: bigint): boolean => (a > 0n && b > 0n) || (a < 0n && b < 0n);
const smaller = (a: bigint, b: bigint): bigint => (a > 0n ? (a < b ? a : b) : a > b ? a : b);
