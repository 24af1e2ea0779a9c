// SPDX-License-Identifier: Apache-2.0
// One pod as the kernel knows it: its record, its sk_lookup link and sockmap, the ports on which something listens.
// The programs keep the list of listening sockets themselves; this file adds those that were there before
// (sock_diag), and keeps the pod's own addresses current (netlink).

import { existsSync, mkdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { formatIp, type IpBytes, type Network, parseNetwork, requireIp } from '#lib/core/addresses.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import {
  ADDRESSES_MAX,
  encodeCookie,
  encodeListenKey,
  encodeLookupConfig,
  encodePod,
  readU32,
  readU64,
  slotKey,
  structs,
  u32,
  u64,
} from '#lib/bpf/abi.ts';
import type { BpfLink, BpfMap } from '#lib/bpf/loader.ts';
import { netnsCookie } from '#lib/net/netns.ts';
import { listeningSockets, namespaceAddresses, watchAddresses } from '#lib/net/pod-sockets.ts';
import type { PodRedirection, RedirectedPod } from './redirection-types.ts';

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
};

export interface RedirectedPodHandle extends PodRedirection {
  readonly cookie: bigint;
  /** Reads again which sockets listen; for when the application refuses on a port that counts as listening. */
  refreshListeners(): void;
  /** Lets go of everything here, while the pod stays redirected. */
  release(): void;
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
  attach(config: Buffer, slotsPin: string, linkPin: string): { link: BpfLink; slots: BpfMap };
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

  /** Of a pod that an earlier agent left armed, nothing is disarmed. */
  const present = maps.pods.lookup(key);
  const armedBefore = present !== undefined && readU32(present, structs.nm_pod.fields.armed) === 1;
  let armed = armedBefore;

  const { link, slots } = begin();

  function begin(): { link: BpfLink; slots: BpfMap } {
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

  function writePod(): void {
    const own = pod.addresses.map((text) => requireIp(text, `pod ${pod.uid}`));
    maps.pods.update(
      key,
      encodePod({
        index: pod.podIndex,
        armed,
        own4: own.find((ip) => ip.length === 4),
        own6: own.find((ip) => ip.length === 16),
        addresses: ownAddresses(own),
        skipOutbound: pod.skipOutboundPorts,
        skipInbound: pod.skipInboundPorts,
        skipSubnets: pod.skipSubnets.map((text) => requireNetwork(text, pod.uid)),
      }),
    );
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

  function refreshListeners(): void {
    /** First: what gets lost from now on is counted anew. */
    maps.lost.update(key, u64(0n));
    const there = new Map<string, { key: Buffer; count: number }>();
    for (const socket of namespaces.listeningSockets(pod.netnsFd)) {
      if (isLoopback(socket.ip)) continue;
      const entry = encodeListenKey({ netnsCookie: cookie, ...socket });
      const id = entry.toString('latin1');
      const known = there.get(id);
      if (known === undefined) there.set(id, { key: entry, count: 1 });
      else known.count++;
    }
    for (const { key: entry, count } of there.values()) {
      const noted = maps.listen.lookup(entry);
      const unseen = count - (noted === undefined ? 0 : readU32(noted, 0));
      if (unseen > 0) maps.seeded.update(entry, u32(unseen));
      else maps.seeded.delete(entry);
    }
    for (const entry of maps.seeded.keys())
      if (readU64(entry, 0) === cookie && !there.has(entry.toString('latin1'))) maps.seeded.delete(entry);
  }

  function removeFolder(): void {
    for (const path of [pin.link, pin.slots]) if (existsSync(path)) unlinkSync(path);
    rmdirSync(options.folder);
  }

  function release(): void {
    closed = true;
    unwatch?.();
    link.close();
    slots.close();
  }

  function close(): void {
    if (closed) return;
    link.detach();
    release();
    forgetPod(maps, cookie);
    removeFolder();
    options.closed();
  }

  return {
    cookie,
    setListener: (direction, family, slot, fd) =>
      slots.update(slotKey(direction, family, slot), u64(BigInt(fd))),
    clearListener: (direction, family, slot) => void slots.delete(slotKey(direction, family, slot)),
    arm: (next) => {
      pod = next;
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
    },
    refreshListeners,
    release,
    close,
    abandon: () => {
      if (!armedBefore) return close();
      if (closed) return;
      release();
      options.closed();
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

function isLoopback(ip: IpBytes): boolean {
  if (ip.length === 4) return ip[0] === 127;
  if (ip.every((byte, index) => byte === (index === 15 ? 1 : 0))) return true;
  return (
    ip[12] === 127 && ip[10] === 0xff && ip[11] === 0xff && ip.subarray(0, 10).every((byte) => byte === 0)
  );
}

function requireNetwork(text: string, uid: string): Network {
  const network = parseNetwork(text);
  if (network === undefined)
    throw new MeshError('MESH_CONFIG_INVALID', `pod ${uid}: "${text}" is no network`, {
      remedy: 'write an address or a CIDR in config.linkerd.io/skip-subnets',
    });
  return network;
}
