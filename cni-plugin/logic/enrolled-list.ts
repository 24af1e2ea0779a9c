// SPDX-License-Identifier: Apache-2.0
// The list on disk of what is in the mesh: the agent writes it (agent/node/disk-lists.ts), the plugin reads it while
// the agent is away. The shim has its own reader in C.
//
//   nodemesh-enrolled 1
//   ns shop
//   pod 6f1c9d2e-...
//   end 2
//
// No list: no agent has run here since the node was made, so nothing is known to be of the mesh. A list that cannot
// be read, or that is not whole (the last line counts those between), may lack any pod: then every pod is of it.

import { readFileSync } from 'node:fs';
import { errnoName, errorMessage } from '#lib/core/errors.ts';

const HEAD = 'nodemesh-enrolled 1';

export interface EnrolledList {
  readonly namespaces: readonly string[];
  readonly pods: readonly string[];
}

export type ReadList =
  | ({ readonly state: 'whole' } & EnrolledList)
  | { readonly state: 'missing' }
  | { readonly state: 'damaged'; readonly reason: string };

export function encodeEnrolledList({ namespaces, pods }: EnrolledList): string {
  const lines = [...namespaces.map((name) => `ns ${name}`), ...pods.map((uid) => `pod ${uid}`)];
  return `${[HEAD, ...lines, `end ${lines.length}`].join('\n')}\n`;
}

export function decodeEnrolledList(text: string): EnrolledList | undefined {
  const lines = text.split('\n');
  const entries = lines.slice(1, -2);
  const whole = lines[0] === HEAD && lines.at(-1) === '' && lines.at(-2) === `end ${entries.length}`;
  if (!whole) return undefined;
  const named = (kind: string): string[] =>
    entries.filter((line) => line.startsWith(kind)).map((line) => line.slice(kind.length));
  return { namespaces: named('ns '), pods: named('pod ') };
}

export function readEnrolledList(path: string): ReadList {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return { state: 'missing' };
    return { state: 'damaged', reason: errorMessage(error) };
  }
  const list = decodeEnrolledList(text);
  return list === undefined ? { state: 'damaged', reason: 'it is not whole' } : { state: 'whole', ...list };
}
