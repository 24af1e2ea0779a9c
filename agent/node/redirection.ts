// SPDX-License-Identifier: Apache-2.0
// Implements Redirection with eBPF: loads and pins what belongs to the node (connect hooks, sockops, maps), makes
// redirected pods (redirected-pod.ts), counts, and removes everything on request. Nothing is global to the machine:
// pins lie below one bpffs, programs hang on this node's cgroups and on its pods' namespaces only.
//
//   <bpffs>/nodemesh/<layout>/maps/<map>   links/<program>   pods/<cookie>/{slots,link}

import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  readdirSync,
  rmdirSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import {
  counterRows,
  encodeCookie,
  encodeConnectConfig,
  INFLIGHT_MAX,
  INFLIGHT_RESERVE,
  LAYOUT,
  readU64,
  SLOTS_MAX,
  u32,
} from '#lib/bpf/abi.ts';
import { openCgroup, refuseExclusive } from '#lib/bpf/cgroups.ts';
import type { AttachPoint, BpfLink, BpfLoader, BpfMap, BpfObject, BpfProgram } from '#lib/bpf/loader.ts';
import type { KernelDescription } from '#lib/bpf/socket-records.ts';
import {
  createRedirectedPod,
  forgetPod,
  type PodMaps,
  type RedirectedPodHandle,
  realNamespaces,
} from './redirected-pod.ts';
import { checkInflight, type InflightDrift } from './self-check-inflight.ts';
import { type Difference, differenceOf } from './self-check-difference.ts';
import { repairPin } from './self-check-pins.ts';
import type { RedirectedPod, Redirection } from './redirection-types.ts';

/** Maps of the node: each object has them all, so each opens or makes them under their pins. */
const sharedMaps = [
  'nm_pods',
  'nm_load',
  'nm_lost',
  'nm_inflight',
  'nm_listen',
  'nm_seeded',
  'nm_counters',
  'nm_mark',
  'nm_peer',
  'nm_accepted',
  'nm_noted',
] as const;

export interface RedirectionOptions {
  readonly bpffs: string;
  readonly objectsDir: string;
  readonly podsCgroup: string;
  readonly nodeCgroup: string;
  readonly slots: number;
  readonly log: Log;
  readonly loader: BpfLoader;
  /** Unfinished handshakes of applications to the agent: on the node, and per pod. */
  readonly inflightMax?: number;
  readonly inflightPodMax?: number;
  /** What a pod's namespace says; replaced in tests. */
  readonly namespaces?: typeof realNamespaces;
  /** Another one than this version's, for tests of two side by side. */
  readonly layout?: number;
  /** Unfinished handshakes that are older have lost their socket. */
  readonly inflightStaleMs?: number;
}

/** A SYN without an answer is repeated for about 130 s, and its entry is needed as long. */
const INFLIGHT_STALE_MS = 180_000;

/** One of the node's programs where it hangs. */
interface NodeLink {
  readonly point: AttachPoint;
  readonly cgroup: string;
  readonly path: string;
  readonly program: BpfProgram;
  link: BpfLink;
}

export interface PodCheck extends Pick<RedirectedPodHandle, 'inode' | 'testable'> {
  readonly uid: string;
  readonly check: () => Difference[];
}

/** What redirection-types.ts asks for, and a little more. */
export interface KernelRedirection extends Redirection {
  readonly kernel: KernelDescription;
  preparePod(pod: RedirectedPod): RedirectedPodHandle;
  /** To be called about once a minute: entries of ports on which nothing listens any more go. */
  maintain(): void;
  /** The application refused on a port that counts as listening: reads again what listens in that pod. */
  refreshListeners(uid: string): void;
  /** The pod with the most unfinished handshakes. */
  busiest(): { readonly uid: string; readonly inflight: number } | undefined;
  /** Compares what belongs to the node, and mends. */
  checkNode(): Difference[];
  /** Where a glance sees that connections pass by: uids of pods, '' for the node. Mends nothing. */
  unsound(): string[];
  /** Pods by uid with their check. */
  podChecks(): PodCheck[];
  /** Removes entries of handshakes that nobody finishes, a piece at each `next`, and corrects the counts. */
  checkInflight(): Generator<undefined, Difference[]>;
}

export function createRedirection(options: RedirectionOptions): KernelRedirection {
  const { loader, log } = options;
  // The map has the same size whatever the limit: it outlives agents.
  const inflightMax = Math.min(options.inflightMax ?? INFLIGHT_MAX, INFLIGHT_MAX);
  const inflightPodMax = options.inflightPodMax ?? Math.ceil(inflightMax / 4);
  if (options.slots < 1 || options.slots > SLOTS_MAX)
    throw new MeshError(
      'MESH_CONFIG_INVALID',
      `${options.slots} listener slots: 1 to ${SLOTS_MAX} are possible`,
    );
  const all = join(options.bpffs, 'nodemesh');
  const layout = String(options.layout ?? LAYOUT);
  const root = join(all, layout);
  const folder = { maps: join(root, 'maps'), links: join(root, 'links'), pods: join(root, 'pods') };
  if (!loader.canPin(options.bpffs))
    throw new MeshError('MESH_HOST_UNFIT', `${options.bpffs} is no bpffs`, {
      remedy: `mount -t bpf bpf ${options.bpffs}`,
    });
  for (const path of Object.values(folder)) mkdirSync(path, { recursive: true, mode: 0o700 });

  const pins = new Map(sharedMaps.map((name) => [name, join(folder.maps, name)]));
  const maxEntries = new Map([['nm_inflight', INFLIGHT_MAX + INFLIGHT_RESERVE]]);
  const file = (object: string): string => join(options.objectsDir, `${object}.bpf.o`);

  refuseExclusive(loader, options.nodeCgroup, ['sockops']);
  refuseExclusive(loader, options.podsCgroup, ['connect4', 'connect6', 'getpeername4', 'getpeername6']);

  const opened: { close(): void }[] = [];
  const nodeLinks: NodeLink[] = [];
  try {
    /** sockops first: nothing may be pointed at the agent before somebody carries the records. */
    const sockops = loader.load(file('sockops'), { pins, maxEntries });
    opened.push(sockops);
    hang(sockops, options.nodeCgroup, ['sockops']);
    const connect = loadConnect();
    opened.push(connect);
    hang(connect, options.podsCgroup, ['getpeername4', 'getpeername6', 'connect4', 'connect6']);
  } catch (error) {
    for (const one of opened) one.close();
    throw error;
  }

  /** Kernels without MPTCP refuse the program that asks for an MPTCP socket. */
  function loadConnect(): BpfObject {
    const load = (mptcp: boolean): BpfObject =>
      loader.load(file('connect'), {
        pins,
        maxEntries,
        config: encodeConnectConfig(inflightMax, inflightPodMax, mptcp),
      });
    try {
      return load(true);
    } catch (error) {
      const without = load(false);
      log.info(
        { error: errorMessage(error) },
        'MPTCP applications will see the address of the agent as their peer',
      );
      return without;
    }
  }

  function hang(object: BpfObject, cgroup: string, points: readonly AttachPoint[]): void {
    const fd = openCgroup(cgroup);
    try {
      for (const point of points) {
        const path = join(folder.links, point);
        const program = object.program(`nm_${point}`);
        const held: NodeLink = {
          point,
          cgroup,
          path,
          program,
          link: hangOne(loader, program, point, fd, path),
        };
        nodeLinks.push(held);
        opened.push({ close: () => held.link.close() });
      }
    } finally {
      closeSync(fd);
    }
  }

  const pinnedMaps = new Map<string, BpfMap>();
  const openMap = (name: string): BpfMap => {
    const known = pinnedMaps.get(name);
    if (known !== undefined) return known;
    const path = join(folder.maps, name);
    const map = loader.openMap(path);
    if (map === undefined) throw new MeshError('MESH_BPF_MAP', `${path} is not pinned`);
    opened.push(map);
    pinnedMaps.set(name, map);
    return map;
  };
  for (const name of sharedMaps) openMap(name);
  const maps: PodMaps = {
    pods: openMap('nm_pods'),
    load: openMap('nm_load'),
    lost: openMap('nm_lost'),
    listen: openMap('nm_listen'),
    seeded: openMap('nm_seeded'),
  };
  const counters = openMap('nm_counters');
  const kernel: KernelDescription = {
    layout: Number(layout),
    acceptedFd: openMap('nm_accepted').fd,
    markFd: openMap('nm_mark').fd,
  };
  const drift: InflightDrift = new Map();

  const pods = new Map<bigint, RedirectedPodHandle>();
  const uids = new Map<string, RedirectedPodHandle>();
  const namespaces = options.namespaces ?? realNamespaces;

  const otherLayouts = (): string[] =>
    existsSync(all) ? readdirSync(all).filter((name) => name !== layout) : [];

  /** After the pod is steered here: until then what another version left of it refuses, and nothing passes by. */
  function retirePod(cookie: bigint): void {
    for (const name of otherLayouts()) {
      try {
        removePins(loader, join(all, name, 'pods', String(cookie)));
        const records = loader.openMap(join(all, name, 'maps/nm_pods'));
        records?.delete(encodeCookie(cookie));
        records?.close();
      } catch (error) {
        log.warn(
          { layout: name, error: errorMessage(error) },
          "another version's redirection of a pod stays",
        );
      }
    }
  }

  /** The rest of other versions, once no pod depends on it any more. */
  function retireLayouts(scope: 'all' | 'dead'): void {
    for (const name of otherLayouts()) {
      const left = join(all, name, 'pods');
      if (
        scope === 'dead' &&
        existsSync(left) &&
        readdirSync(left).some((cookie) => lives(join(left, cookie, 'link')))
      )
        continue;
      removePins(loader, join(all, name));
      log.info({ layout: name }, 'removed the redirection of another version');
    }
  }

  /** Before something is loaded that would make a map anew where a pin is missing. */
  function repairNodePins(): string | undefined {
    for (const path of Object.values(folder)) mkdirSync(path, { recursive: true, mode: 0o700 });
    const wrong = [
      ...nodeLinks.map(({ link, path, point }) =>
        repairPin(link, path, (at) => loader.openLink(at)) ? point : '',
      ),
      ...[...pinnedMaps].map(([name, map]) =>
        repairPin(map, join(folder.maps, name), (at) => loader.openMap(at)) ? name : '',
      ),
    ].filter((name) => name !== '');
    return wrong.length === 0 ? undefined : `pins were gone or led elsewhere: ${wrong.join(', ')}`;
  }

  function repairNodeLinks(): string | undefined {
    const wrong: string[] = [];
    for (const held of nodeLinks) {
      const fd = openCgroup(held.cgroup);
      try {
        const holds = (): boolean =>
          held.link.target() === fstatSync(fd, { bigint: true }).ino &&
          held.link.programId() === loader.programId(held.program);
        if (holds()) continue;
        const before = held.link;
        held.link = hangOne(loader, held.program, held.point, fd, held.path);
        before.close();
        if (!holds())
          throw new MeshError('MESH_BPF_ATTACH', `${held.point} cannot be attached to ${held.cgroup}`);
        wrong.push(held.point);
      } finally {
        closeSync(fd);
      }
    }
    return wrong.length === 0 ? undefined : `programs did not hang on their cgroup: ${wrong.join(', ')}`;
  }

  /** The listening ports' keys by pod, read once for all pods. */
  function notedPorts(): Map<bigint, Buffer[]> {
    const noted = new Map<bigint, Buffer[]>();
    for (const map of [maps.listen, maps.seeded])
      for (const key of map.keys()) {
        const cookie = readU64(key, 0);
        const list = noted.get(cookie);
        if (list === undefined) noted.set(cookie, [key]);
        else list.push(key);
      }
    return noted;
  }

  /** Whether the namespace that a pod's link hangs on still exists. */
  function lives(path: string): boolean {
    const link = loader.openLink(path);
    if (link === undefined) return false;
    try {
      return link.target() !== 0n;
    } finally {
      link.close();
    }
  }

  return {
    slots: options.slots,
    kernel,
    preparePod: (pod) => {
      const cookie = namespaces.cookie(pod.netnsFd);
      const old = pods.get(cookie);
      if (old !== undefined)
        throw new MeshError('MESH_ALREADY_EXISTS', `the namespace of pod ${pod.uid} is redirected already`);
      repairNodePins();
      const handle = createRedirectedPod({
        pod,
        cookie,
        slots: pod.slots ?? options.slots,
        folder: join(folder.pods, String(cookie)),
        maps,
        namespaces,
        log,
        loader,
        attach: (config, slotsPin, linkPin) => {
          const object = loader.load(file('lookup'), {
            pins: new Map<string, string>([...pins, ['nm_slots', slotsPin]]),
            config,
            maxEntries,
          });
          try {
            const program = object.program('nm_lookup');
            const link = hangOne(loader, program, 'lookup', pod.netnsFd, linkPin);
            return { link, slots: object.map('nm_slots'), programId: loader.programId(program) };
          } finally {
            object.close();
          }
        },
        armed: () => retirePod(cookie),
        closed: () => {
          pods.delete(cookie);
          uids.delete(pod.uid);
          drift.delete(cookie);
        },
      });
      pods.set(cookie, handle);
      uids.set(pod.uid, handle);
      return handle;
    },
    counters: () =>
      new Map(
        counterRows.map((name, row) => [
          name,
          Number(readU64(counters.lookup(u32(row)) ?? Buffer.alloc(8), 0)),
        ]),
      ),
    sweep: (scope) => {
      let swept = 0;
      for (const name of readdirSync(folder.pods)) {
        const cookie = BigInt(name);
        if (pods.has(cookie) || (scope === 'dead' && lives(join(folder.pods, name, 'link')))) continue;
        /** The link first: while it hangs, a pod without a record is refused everything. */
        removePins(loader, join(folder.pods, name));
        forgetPod(maps, cookie);
        swept++;
      }
      retireLayouts(scope);
      return swept;
    },
    refreshListeners: (uid) => uids.get(uid)?.refreshListeners(),
    busiest: () => {
      let found: { readonly uid: string; readonly inflight: number } | undefined;
      for (const [uid, { cookie }] of uids) {
        const value = maps.load.lookup(encodeCookie(cookie));
        const inflight = value === undefined ? 0 : Number(value.readBigInt64LE());
        if (inflight > (found?.inflight ?? 0)) found = { uid, inflight };
      }
      return found;
    },
    checkNode: () => [
      ...differenceOf('node-foreign', () => {
        refuseExclusive(loader, options.nodeCgroup, ['sockops']);
        refuseExclusive(loader, options.podsCgroup, ['connect4', 'connect6', 'getpeername4', 'getpeername6']);
        return undefined;
      }),
      ...differenceOf('node-pins', repairNodePins),
      ...differenceOf('node-links', repairNodeLinks),
    ],
    unsound: () => {
      const hangs = ({ link, cgroup }: NodeLink): boolean =>
        link.target() === statSync(cgroup, { bigint: true, throwIfNoEntry: false })?.ino;
      const wrong = [...uids].flatMap(([uid, handle]) => (handle.sound() ? [] : [uid]));
      return nodeLinks.every(hangs) ? wrong : ['', ...wrong];
    },
    podChecks: () => {
      const noted = notedPorts();
      return [...uids].map(([uid, handle]) => ({
        uid,
        inode: () => handle.inode(),
        testable: () => handle.testable(),
        check: () => handle.check(noted.get(handle.cookie) ?? []),
      }));
    },
    checkInflight: () =>
      checkInflight({
        inflight: openMap('nm_inflight'),
        load: maps.load,
        counters,
        cookies: () => [...pods.keys()],
        staleMs: options.inflightStaleMs ?? INFLIGHT_STALE_MS,
        drift,
      }),
    maintain: () => {
      const touched = new Set<bigint>();
      for (const key of maps.listen.keys()) {
        const value = maps.listen.lookup(key);
        if (value === undefined || value.some((byte) => byte !== 0)) continue;
        maps.listen.delete(key);
        touched.add(readU64(key, 0));
      }
      /** A socket that began to listen between look-up and deletion is found again here. */
      for (const cookie of touched) pods.get(cookie)?.refreshListeners();
    },
    close: () => {
      for (const pod of pods.values()) pod.release();
      for (const one of opened.splice(0)) one.close();
    },
    uninstall: () => {
      for (const pod of pods.values()) pod.close();
      for (const one of opened.splice(0)) one.close();
      removePins(loader, root);
      if (readdirSync(all).length === 0) rmdirSync(all);
    },
  };
}

/** Takes over the pinned link if it hangs on the right thing, else makes a new one and pins it. */
function hangOne(
  loader: BpfLoader,
  program: ReturnType<BpfObject['program']>,
  point: AttachPoint,
  target: number,
  path: string,
): BpfLink {
  const pinned = loader.openLink(path);
  if (pinned !== undefined) {
    if (pinned.target() === fstatSync(target, { bigint: true }).ino && pinned.update(program)) return pinned;
    pinned.detach();
    pinned.close();
    unlinkSync(path);
  }
  const link = loader.attach(program, point, target);
  try {
    link.pin(path);
  } catch (error) {
    link.close();
    throw error;
  }
  return link;
}

/** Detaches pinned links and removes all pins and folders below `path`. */
function removePins(loader: BpfLoader, path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const at = join(path, entry.name);
    if (entry.isDirectory()) {
      removePins(loader, at);
      continue;
    }
    if (path.endsWith('/links') || entry.name === 'link') {
      const link = loader.openLink(at);
      link?.detach();
      link?.close();
    }
    unlinkSync(at);
  }
  rmdirSync(path);
}
