// SPDX-License-Identifier: Apache-2.0
// The network namespaces of running pods that nobody announced: found by the processes of their cgroups. A process
// may visit a foreign namespace, so one counts only if it is not the node's and has an address of the pod.

import { closeSync, fstatSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { canonicalIp, formatIp } from '#lib/core/addresses.ts';
import { errnoName } from '#lib/core/errors.ts';
import { openNamespace } from '#lib/net/netns.ts';
import { namespaceAddresses } from '#lib/net/pod-sockets.ts';

export interface WantedPod {
  readonly uid: string;
  readonly addresses: readonly string[];
}

export interface FoundNamespace {
  readonly path: string;
  readonly inode: bigint;
}

/** What is asked of the machine; replaced in tests. */
export interface ProcessView {
  processes(): readonly string[];
  /** The text of `cgroup`, undefined if the process is gone. */
  cgroups(process: string): string | undefined;
  /** In clock ticks since the machine started. */
  startedAt(process: string): number;
  namespaceOf(process: string): FoundNamespace | undefined;
  /** Inodes of namespaces that are never a pod's. */
  hosts(): ReadonlySet<bigint>;
  addresses(namespace: FoundNamespace): readonly string[];
}

/** Processes looked at in one turn of the event loop: a busy node has thousands. */
const PROCESSES_PER_TURN = 100;

/**
 * The uid among `wanted` whose pod the process belongs to: `kubepods/burstable/pod<uid>/<id>`,
 * `kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope`, or a folder named by the uid itself.
 */
export function podOfCgroups(text: string, wanted: ReadonlyMap<string, unknown>): string | undefined {
  for (const line of text.split('\n')) {
    const path = line.slice(line.indexOf(':', line.indexOf(':') + 1) + 1);
    for (const folder of path.split('/')) {
      if (wanted.has(folder)) return folder;
      const cgroupfs = /^pod([0-9a-f-]{32,36})$/.exec(folder)?.[1];
      if (cgroupfs !== undefined && wanted.has(cgroupfs)) return cgroupfs;
      const systemd = /-pod([0-9a-f_]{32,36})\.slice$/.exec(folder)?.[1]?.replaceAll('_', '-');
      if (systemd !== undefined && wanted.has(systemd)) return systemd;
    }
  }
  return undefined;
}

export async function findNamespaces(
  pods: readonly WantedPod[],
  view: ProcessView,
): Promise<ReadonlyMap<string, FoundNamespace>> {
  const wanted = new Map(pods.map((pod) => [pod.uid, pod]));
  const candidates = new Map<string, string[]>();
  let turn = 0;
  for (const process of view.processes()) {
    if (++turn % PROCESSES_PER_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
    const text = view.cgroups(process);
    const uid = text === undefined ? undefined : podOfCgroups(text, wanted);
    if (uid === undefined) continue;
    const list = candidates.get(uid);
    if (list === undefined) candidates.set(uid, [process]);
    else list.push(process);
  }
  const hosts = view.hosts();
  const found = new Map<string, FoundNamespace>();
  for (const [uid, processes] of candidates) {
    const own = new Set(wanted.get(uid)?.addresses.map(canonical));
    const judged = new Set(hosts);
    // The oldest process first: later ones may have gone elsewhere.
    const byAge = processes.toSorted((a, b) => view.startedAt(a) - view.startedAt(b));
    for (const process of byAge) {
      const namespace = view.namespaceOf(process);
      if (namespace === undefined || judged.has(namespace.inode)) continue;
      judged.add(namespace.inode);
      if (!view.addresses(namespace).some((address) => own.has(canonical(address)))) continue;
      found.set(uid, namespace);
      break;
    }
  }
  return found;
}

const canonical = (text: string): string => canonicalIp(text) ?? text;

/** The machine as `root` (a /proc that shows the node's processes) has it. */
export function processView(root: string): ProcessView {
  const read = (process: string, file: string): string | undefined =>
    unlessGone(() => readFileSync(join(root, process, file), 'utf8'));
  const inodeOf = (process: string): bigint | undefined =>
    unlessGone(() => statSync(join(root, process, 'ns', 'net'), { bigint: true }).ino);
  return {
    processes: () => readdirSync(root).filter((name) => /^\d+$/.test(name)),
    cgroups: (process) => read(process, 'cgroup'),
    startedAt: (process) => {
      // After the name, which may contain anything: the 20th field from there.
      const text = read(process, 'stat') ?? '';
      return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? Number.NaN) || 0;
    },
    namespaceOf: (process) => {
      const inode = inodeOf(process);
      return inode === undefined ? undefined : { path: join(root, process, 'ns', 'net'), inode };
    },
    hosts: () => {
      const own = statSync('/proc/self/ns/net', { bigint: true }).ino;
      return new Set([own, inodeOf('1') ?? own]);
    },
    addresses: ({ path, inode }) => addressesIn(path, inode),
  };
}

/** None if the namespace went, or the process number is another's by now. */
function addressesIn(path: string, inode: bigint): readonly string[] {
  const fd = unlessGone(() => openNamespace(path));
  if (fd === undefined) return [];
  try {
    if (fstatSync(fd, { bigint: true }).ino !== inode) return [];
    return namespaceAddresses(fd).map(formatIp);
  } finally {
    closeSync(fd);
  }
}

function unlessGone<T>(ask: () => T): T | undefined {
  try {
    return ask();
  } catch (error) {
    const name = errnoName(error) ?? errnoName(error instanceof Error ? error.cause : undefined);
    // A process may end at any moment; one of another user's may not be looked at.
    if (name === 'ENOENT' || name === 'ESRCH' || name === 'EACCES') return undefined;
    throw error;
  }
}
