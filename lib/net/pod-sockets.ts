// SPDX-License-Identifier: Apache-2.0
// What the kernel says about a network namespace: its addresses, and which TCP sockets listen in it.

import koffi from 'koffi';
import type { IpBytes } from '#lib/core/addresses.ts';
import { AF_INET, AF_INET6, close, stableBytes } from './native.ts';
import { netlinkAttributes, netlinkDrain, netlinkDump, netlinkWatch } from './netlink.ts';
import { inNamespace } from './netns.ts';

const NETLINK_ROUTE = 0;
const NETLINK_SOCK_DIAG = 4;
const RTM_GETADDR = 22;
const SOCK_DIAG_BY_FAMILY = 20;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const INET_DIAG_SKV6ONLY = 11;
const TCP = 6;
const STATES_LISTEN = 1 << 10;
const RTMGRP_ADDRESSES = 0x10 | 0x100;

/** Every address of the namespace, loopback ones included; 4 or 16 bytes each. */
export function namespaceAddresses(netnsFd: number): IpBytes[] {
  return inNamespace(netnsFd, () => {
    const found: IpBytes[] = [];
    netlinkDump(NETLINK_ROUTE, RTM_GETADDR, stableBytes(8), (payload) => {
      let local: Buffer | undefined;
      netlinkAttributes(payload, 8, (type, value) => {
        /** On point-to-point links IFA_ADDRESS is the other end's. */
        if (type === IFA_LOCAL || (type === IFA_ADDRESS && local === undefined)) local = value;
      });
      if (local !== undefined) found.push(Uint8Array.from(local));
    });
    return found;
  });
}

/** Calls `changed` whenever an address comes or goes; the answer ends the watch. */
export function watchAddresses(netnsFd: number, changed: () => void): () => void {
  const fd = inNamespace(netnsFd, () => netlinkWatch(NETLINK_ROUTE, RTMGRP_ADDRESSES));
  const handle = koffi.node.poll(fd, { readable: true }, () => {
    netlinkDrain(fd);
    changed();
  });
  handle.unref();
  return () => {
    handle.close();
    close(fd);
  };
}

export interface ListeningSocket {
  /** 4 or 16 bytes; all zero: any address. */
  readonly ip: IpBytes;
  readonly port: number;
  /** Only of IPv6 sockets: whether IPv4 is refused. */
  readonly v6only: boolean;
}

/** The TCP sockets that listen in the namespace (sock_diag). */
export function listeningSockets(netnsFd: number): ListeningSocket[] {
  return inNamespace(netnsFd, () => {
    const found: ListeningSocket[] = [];
    for (const family of [AF_INET, AF_INET6]) {
      const request = stableBytes(56);
      request[0] = family;
      request[1] = TCP;
      request.writeUInt32LE(STATES_LISTEN, 4);
      netlinkDump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, request, (payload) => {
        let v6only = false;
        netlinkAttributes(payload, 72, (type, value) => {
          if (type === INET_DIAG_SKV6ONLY) v6only = value[0] === 1;
        });
        found.push({
          ip: Uint8Array.from(payload.subarray(8, family === AF_INET ? 12 : 24)),
          port: payload.readUInt16BE(4),
          v6only,
        });
      });
    }
    return found;
  });
}
