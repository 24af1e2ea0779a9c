// SPDX-License-Identifier: Apache-2.0
// For whom a lookup is made: the JSON that Linkerd's proxies send with each, with the family of the address that
// the client dialled as an addition of ours. What cannot be read counts as nothing, as with Linkerd.

import * as v from 'valibot';
import { Interned } from './interned.ts';

const shape = v.object({
  ns: v.optional(v.string(), ''),
  nodeName: v.optional(v.string(), ''),
  pod: v.optional(v.string(), ''),
  external_workload: v.optional(v.string(), ''),
  ipFamily: v.optional(v.picklist(['', 'IPv4', 'IPv6']), ''),
});

export type ContextToken = v.InferOutput<typeof shape>;

const nothing: ContextToken = { ns: '', nodeName: '', pod: '', external_workload: '', ipFamily: '' };

/** Tens of thousands of lookups name the same few thousand. */
const tokens = new Interned(readContextToken);

export const parseContextToken = (text: string): ContextToken => tokens.of(text);

function readContextToken(text: string): ContextToken {
  if (text === '') return nothing;
  if (text.startsWith('ns:')) return { ...nothing, ns: text.slice(3) };
  try {
    const result = v.safeParse(shape, JSON.parse(text));
    return result.success ? result.output : nothing;
  } catch {
    // Not JSON: a client of another kind.
    return nothing;
  }
}

/** A workload as the policy services are told of it: the same JSON, or `namespace:pod`. Undefined: neither. */
export function parseWorkload(text: string): ContextToken | undefined {
  const legacy = /^([a-z0-9][-a-z0-9]*):([a-z0-9][-.a-z0-9]*)$/.exec(text);
  if (legacy !== null) return { ...nothing, ns: legacy[1] ?? '', pod: legacy[2] ?? '' };
  if (!text.startsWith('{')) return undefined;
  const token = parseContextToken(text);
  return token.ns === '' ? undefined : token;
}
