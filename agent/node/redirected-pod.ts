// SPDX-License-Identifier: Apache-2.0
// One pod as the kernel knows it: its record, its sk_lookup link and sockmap, the ports on which something listens.
// The programs keep the list of listening sockets themselves; this file adds those that were there before
// (sock_diag), and keeps the pod's own addresses current (netlink).

import { existsSync, fstatSync, mkdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import {
  formatIp,
  type IpBytes,
  type Network,
  networkContains,
  parseIp,
  parseNetwork,
  portsContain,
  requireIp,
} from '#lib/core/addresses.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import {
  ADDRESSES_MAX,
  encodeCookie,
  encodeLookupConfig,
  encodePod,
  readU32,
  readU64,
  slotKey,
  structs,
  u64,
} from '#lib/bpf/abi.ts';
import type { BpfLink, BpfLoader, BpfMap } from '#lib/bpf/loader.ts';
import { netnsCookie } from '#lib/net/netns.ts';
import { listeningSockets, namespaceAddresses, watchAddresses } from '#lib/net/pod-sockets.ts';
import { listens, socketCookie } from '#lib/net/socket-facts.ts';
import { ADMIN_PORT, MESH_PORT, TAP_PORT, TEST_ADDRESSES, TEST_PORT } from '#lib/core/mesh-ports.ts';
import { checkPorts, isLoopback, refreshPorts } from './listening-ports.ts';
import type { PodRedirection, RedirectedPod } from './redirection-types.ts';
import { type Difference, differenceOf } from './self-check-difference.ts';
import { repairPin } from './self-check-pins.ts';

/** Maps of the node in which pods have entries. */
export interface PodMaps {
  readonly pods: BpfMap;
  readonly load: BpfMap;
  readonly lost: BpfMap;
  readonly listen: BpfMap;
  readonly seeded: BpfMap;
}

export const realNamespaces = {
  cookie: netnsCookie,
  addresses: namespaceAddresses,
  watchAddresses,
  listeningSockets,
  socketCookie,
  listens,
};

export interface RedirectedPodHandle extends PodRedirection {
  readonly cookie: bigint;
  /** Reads again which sockets listen; for when the application refuses on a port that counts as listening. */
  refreshListeners(): void;
  /** Compares the kernel with what should be, and mends; `noted` are the pod's keys among the listening ports. */
  check(noted: readonly Buffer[]): Difference[];
  /** A glance at what would let connections pass by: cheap enough for every second, mends nothing. */
  sound(): boolean;
  /** How a connection from the pod to the self-check's test address is made; undefined where it is to pass by. */
  testable(): { readonly netnsFd: number; readonly family: 4 | 6 } | undefined;
  /** Of its network namespace. */
  inode(): bigint;
  /** Lets go of everything here, while the pod stays redirected. */
  release(): void;
}

interface Attached {
  readonly link: BpfLink;
  readonly slots: BpfMap;
  readonly programId: number;
}

export interface RedirectedPodOptions {
  readonly pod: RedirectedPod;
  readonly cookie: bigint;
  readonly slots: number;
  /** For pins; made here. */
  readonly folder: string;
  readonly maps: PodMaps;
  readonly namespaces: typeof realNamespaces;
  readonly log: Log;
  readonly loader: Pick<BpfLoader, 'openLink' | 'openMap'>;
  attach(config: Buffer, slotsPin: string, linkPin: string): Attached;
  /** Steered from now on: what an agent of another layout left of this pod may go. */
  armed(): void;
  closed(): void;
}

export function createRedirectedPod(options: RedirectedPodOptions): RedirectedPodHandle {
  const { cookie, maps, namespaces } = options;
  const key = encodeCookie(cookie);
  const log = options.log.child({ pod: options.pod.uid });
  const pin = { slots: join(options.folder, 'slots'), link: join(options.folder, 'link') };
  let pod = options.pod;
  let unwatch: (() => void) | undefined;
  let closed = false;
  let shadowed: ReadonlySet<number> = new Set();

  /** Of a pod that an earlier agent left armed, nothing is disarmed. */
  const present = maps.pods.lookup(key);
  const armedBefore = present !== undefined && readU32(present, structs.nm_pod.fields.armed) === 1;
  let armed = armedBefore;

  /** What stands in the slots, by the slot's key. */
  const listeners = new Map<string, { readonly key: Buffer; readonly fd: number }>();
  /** The pod's record as it was written last. */
  let written: Buffer = Buffer.alloc(0);
  let attached = begin();

  function begin(): Attached {
    mkdirSync(options.folder, { recursive: true, mode: 0o700 });
    try {
      /** From here on the programs note new listening sockets; what was there before is read afterwards. */
      if (maps.load.lookup(key) === undefined) maps.load.update(key, u64(0n));
      if (maps.lost.lookup(key) === undefined) maps.lost.update(key, u64(0n));
      refreshListeners();
      writePod();
      return options.attach(encodeLookupConfig(cookie, options.slots), pin.slots, pin.link);
    } catch (error) {
      if (!armed) {
        forgetPod(maps, cookie);
        removeFolder();
      }
      throw error;
    }
  }

  function podRecord(): Buffer {
    const own = pod.addresses.map((text) => requireIp(text, `pod ${pod.uid}`));
    return encodePod({
      index: pod.podIndex,
      armed,
      own4: own.find((ip) => ip.length === 4),
      own6: own.find((ip) => ip.length === 16),
      addresses: ownAddresses(own),
      skipOutbound: pod.skipOutboundPorts,
      skipInbound: pod.skipInboundPorts,
      skipSubnets: pod.skipSubnets.map((text) => requireNetwork(text, pod.uid)),
    });
  }

  function writePod(record = podRecord()): void {
    maps.pods.update(key, record);
    written = record;
  }

  /** The pod's addresses and whatever else its namespace has, loopback aside. */
  function ownAddresses(known: readonly IpBytes[]): IpBytes[] {
    const byText = new Map(known.map((ip) => [formatIp(ip), ip]));
    for (const ip of namespaces.addresses(pod.netnsFd)) if (!isLoopback(ip)) byText.set(formatIp(ip), ip);
    const addresses = [...byText.values()];
    if (addresses.length > ADDRESSES_MAX)
      log.warn(
        { addresses: addresses.length, limit: ADDRESSES_MAX },
        'a pod has more addresses than can be known as its own',
      );
    return addresses.slice(0, ADDRESSES_MAX);
  }

  function sockets(): ReturnType<typeof listeningSockets> {
    return namespaces.listeningSockets(pod.netnsFd);
  }

  function refreshListeners(): void {
    refreshPorts(maps, cookie, sockets);
  }

  function removeFolder(): void {
    for (const path of [pin.link, pin.slots]) if (existsSync(path)) unlinkSync(path);
    rmdirSync(options.folder);
  }

  function release(): void {
    closed = true;
    unwatch?.();
    attached.link.close();
    attached.slots.close();
  }

  function close(): void {
    if (closed) return;
    attached.link.detach();
    release();
    forgetPod(maps, cookie);
    removeFolder();
    options.closed();
  }

  function letGo(): void {
    if (closed) return;
    release();
    options.closed();
  }

  /** Whether the program hangs on this pod's namespace and is ours. */
  const linkHolds = (): boolean =>
    attached.link.target() === fstatSync(pod.netnsFd, { bigint: true }).ino &&
    attached.link.programId() === attached.programId;

  function repairLink(): string | undefined {
    if (linkHolds()) return undefined;
    const before = attached;
    attached = options.attach(encodeLookupConfig(cookie, options.slots), pin.slots, pin.link);
    before.link.close();
    before.slots.close();
    if (!linkHolds())
      throw new MeshError('MESH_BPF_ATTACH', 'the program for its listeners cannot be attached');
    return 'the program that chooses the listener did not hang on its namespace';
  }

  function repairPins(): string | undefined {
    if (!existsSync(options.folder)) mkdirSync(options.folder, { recursive: true, mode: 0o700 });
    const link = repairPin(attached.link, pin.link, (at) => options.loader.openLink(at));
    const slots = repairPin(attached.slots, pin.slots, (at) => options.loader.openMap(at));
    return link || slots ? 'its pins were gone or led elsewhere' : undefined;
  }

  function repairSlots(): string | undefined {
    let wrong = 0;
    for (const { key: slot, fd } of listeners.values()) {
      if (!namespaces.listens(fd)) continue;
      const there = attached.slots.lookup(slot);
      if (there !== undefined && readU64(there, 0) === namespaces.socketCookie(fd)) continue;
      attached.slots.update(slot, u64(BigInt(fd)));
      wrong++;
    }
    return wrong === 0 ? undefined : `${wrong} of its slots held nothing or another socket`;
  }

  function checkListeners(): undefined {
    const dead = [...listeners.values()].filter(({ fd }) => !namespaces.listens(fd)).length;
    if (dead > 0)
      throw new MeshError(
        'MESH_NETNS',
        `${dead} of ${listeners.size} listeners in the pod do not listen any more`,
        {
          remedy: 'restart the agent or the pod; connections that choose them are refused',
        },
      );
  }

  /** An application listens where the mesh answers: nobody reaches it, and whoever wonders finds a line. */
  function nameShadowed(): void {
    const there = sockets().filter(
      ({ ip, port }) => port === ADMIN_PORT || ((port === MESH_PORT || port === TAP_PORT) && !isLoopback(ip)),
    );
    const ports = new Set(there.map(({ port }) => port));
    for (const port of ports)
      if (!shadowed.has(port))
        log.warn({ port }, 'an application listens on a port that the mesh answers for; nothing reaches it');
    shadowed = ports;
  }

  function check(noted: readonly Buffer[]): Difference[] {
    if (closed || !armed) return [];
    const namespace = differenceOf('pod-namespace', () => {
      if (namespaces.cookie(pod.netnsFd) !== cookie)
        throw new MeshError('MESH_NETNS', 'the descriptor of its namespace leads to another one');
      return undefined;
    });
    /** Whatever is compared with a foreign namespace would be mended for the worse. */
    if (namespace.length > 0) return namespace;
    return [
      /** First those through which traffic could pass by. */
      ...differenceOf('pod-record', () => {
        const expected = podRecord();
        if (maps.pods.lookup(key)?.equals(expected) === true) return undefined;
        writePod(expected);
        return 'its record in the kernel was gone or another';
      }),
      ...differenceOf('pod-pins', repairPins),
      ...differenceOf('pod-link', repairLink),
      ...differenceOf('pod-slots', repairSlots),
      ...differenceOf('pod-listeners', checkListeners),
      ...differenceOf('pod-ports', () => {
        nameShadowed();
        return checkPorts(maps, cookie, sockets, noted);
      }),
    ];
  }

  return {
    cookie,
    setListener: (direction, family, slot, fd) => {
      const at = slotKey(direction, family, slot);
      const there = attached.slots.lookup(at);
      /** An adopted listener stands there already. */
      if (there === undefined || readU64(there, 0) !== namespaces.socketCookie(fd))
        attached.slots.update(at, u64(BigInt(fd)));
      listeners.set(at.toString('latin1'), { key: at, fd });
    },
    clearListener: (direction, family, slot) => {
      const at = slotKey(direction, family, slot);
      listeners.delete(at.toString('latin1'));
      attached.slots.delete(at);
    },
    check,
    testable: () => {
      const own = parseIp(pod.addresses[0] ?? '');
      if (closed || !armed || own === undefined || portsContain(pod.skipOutboundPorts, TEST_PORT))
        return undefined;
      const tests = TEST_ADDRESSES.map((text) => requireIp(text, 'test address'));
      const passes = pod.skipSubnets
        .map((text) => requireNetwork(text, pod.uid))
        .some((network) => tests.some((ip) => networkContains(network, ip)));
      return passes ? undefined : { netnsFd: pod.netnsFd, family: own.length === 4 ? 4 : 6 };
    },
    sound: () =>
      closed ||
      !armed ||
      (attached.link.target() === fstatSync(pod.netnsFd, { bigint: true }).ino &&
        maps.pods.lookup(key)?.equals(written) === true),
    inode: () => fstatSync(pod.netnsFd, { bigint: true }).ino,
    arm: (next) => {
      pod = next;
      const first = !armed || unwatch === undefined;
      armed = true;
      /** The watch first, so that no change falls between it and the reading. */
      unwatch ??= namespaces.watchAddresses(pod.netnsFd, () => {
        if (closed) return;
        try {
          writePod();
        } catch (error) {
          log.error({ error: errorMessage(error) }, "a pod's addresses changed and could not be recorded");
        }
      });
      writePod();
      if (first) options.armed();
    },
    refreshListeners,
    release,
    close,
    letGo,
    abandon: () => {
      if (armedBefore) letGo();
      else close();
    },
  };
}

/** Entries of a pod in the maps of the node. Handshakes under way leave by themselves. */
export function forgetPod(maps: PodMaps, cookie: bigint): void {
  const key = encodeCookie(cookie);
  maps.pods.delete(key);
  maps.lost.delete(key);
  for (const map of [maps.listen, maps.seeded])
    for (const entry of map.keys()) if (readU64(entry, 0) === cookie) map.delete(entry);
  maps.load.delete(key);
}

function requireNetwork(text: string, uid: string): Network {
  const network = parseNetwork(text);
  if (network === undefined)
    throw new MeshError('MESH_CONFIG_INVALID', `pod ${uid}: "${text}" is no network`, {
      remedy: 'write an address or a CIDR in config.linkerd.io/skip-subnets',
    });
  return network;
}
