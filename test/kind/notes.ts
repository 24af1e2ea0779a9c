// SPDX-License-Identifier: Apache-2.0
// What is known of a cluster on this machine: notes that `up` leaves in its folder, and whether it lives.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { findClusterCgroups } from './cgroups.ts';
import { type ClusterLayout, clusterDir, clusterLayout, clusterOfNetns, STATE_ROOT } from './layout.ts';
import { machinePid } from './machine.ts';
import { namedNetns } from './network.ts';

export interface Notes {
  readonly nodes: number;
  /** `ip netns add` makes its folder a mount; the last cluster to go undoes that if the first has done it. */
  readonly netnsDirWasMount: boolean;
  /** The process that makes the cluster, until it is made. */
  readonly maker: Maker | undefined;
}

/** Process ids come round: the time of its start tells whether it is the same. */
interface Maker {
  readonly pid: number;
  readonly startedAt: string;
}

function startedAt(pid: number): string | undefined {
  try {
    // The name, in brackets, may hold spaces; the 22nd field is the twentieth behind it.
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')[19];
  } catch {
    return undefined; // there is no such process
  }
}

export const thisMaker = (): Maker => ({ pid: process.pid, startedAt: startedAt(process.pid) ?? '' });

const notesFile = (name: string): string => join(clusterDir(name), 'notes.json');

export function readNotes(name: string): Notes | undefined {
  const file = notesFile(name);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Notes) : undefined;
}

export const writeNotes = (name: string, notes: Notes): void =>
  writeFileSync(notesFile(name), `${JSON.stringify(notes)}\n`);

export type ClusterState = 'absent' | 'being made' | 'up' | 'left over';

export function clusterState(name: string): ClusterState {
  const notes = readNotes(name);
  if (notes === undefined) return clusterNames().has(name) ? 'left over' : 'absent';
  if (notes.maker !== undefined)
    return startedAt(notes.maker.pid) === notes.maker.startedAt ? 'being made' : 'left over';
  const { control, nodes } = clusterLayout(name, notes.nodes);
  return [control, ...nodes].every((machine) => machinePid(machine) !== undefined) ? 'up' : 'left over';
}

/** Of every cluster of which there is anything, in whatever state. */
export function clusterNames(): Set<string> {
  const folders = existsSync(STATE_ROOT) ? readdirSync(STATE_ROOT) : [];
  const netns = namedNetns().map(clusterOfNetns);
  return new Set([...folders, ...findClusterCgroups().keys(), ...netns.filter((name) => name !== undefined)]);
}

/** The layout of a cluster that is up. */
export function requireCluster(name: string): ClusterLayout {
  const notes = readNotes(name);
  if (notes !== undefined && clusterState(name) === 'up') return clusterLayout(name, notes.nodes);
  throw new MeshError('MESH_NOT_FOUND', `there is no cluster "${name}" (${clusterState(name)})`, {
    remedy: `make cluster-up${name === 'main' ? '' : ` CLUSTER=${name}`}`,
  });
}
