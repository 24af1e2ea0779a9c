// SPDX-License-Identifier: Apache-2.0
// A pod's network namespace as enrolment needs it: held open by a descriptor, with listeners made inside.

import { fstatSync, statSync } from 'node:fs';
import { formatIp, requireIp } from '#lib/core/addresses.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { close } from '#lib/net/native.ts';
import { closeNamespace, openNamespace } from '#lib/net/netns.ts';
import { namespaceAddresses } from '#lib/net/pod-sockets.ts';
import { listens } from '#lib/net/socket-facts.ts';
import { openListener } from '#lib/net/sockets.ts';

export interface PodNamespace {
  /** Descriptor of the namespace, open until `close`. */
  readonly fd: number;
  /** Address families of the pod's addresses: IPv6 may be switched off in a pod. */
  readonly families: readonly (4 | 6)[];
  /** A listening socket on loopback at a free port; returns its descriptor. */
  openListener(family: 4 | 6): number;
  /** False once the keeper has shut it down. */
  listens(fd: number): boolean;
  closeDescriptor(fd: number): void;
  /** What is wrong if the pod's namespace shall be at that path and own these addresses. */
  differs(path: string, addresses: readonly string[]): string | undefined;
  close(): void;
}

/** Throws MESH_NETNS if the path is no namespace, or the host's own one, or has not the pod's addresses. */
export function openPodNamespace(path: string, addresses: readonly string[]): PodNamespace {
  const fd = openNamespace(path);
  if (fstatSync(fd).ino === statSync('/proc/self/ns/net').ino) {
    closeNamespace(fd);
    throw new MeshError('MESH_NETNS', `${path} is the network namespace of the node itself`, {
      remedy: 'pods with hostNetwork are never enrolled',
    });
  }
  try {
    requireAddresses(fd, path, addresses);
  } catch (error) {
    closeNamespace(fd);
    throw error;
  }
  const families: (4 | 6)[] = [];
  if (addresses.some((address) => !address.includes(':'))) families.push(4);
  if (addresses.some((address) => address.includes(':'))) families.push(6);
  return {
    fd,
    families,
    openListener: (family) => openListener(fd, family),
    listens,
    closeDescriptor: (descriptor) => {
      close(descriptor);
    },
    differs(at, expected) {
      try {
        if (statSync(at).ino !== fstatSync(fd).ino) return `is meshed in another namespace than ${at}`;
        requireAddresses(fd, at, expected);
        return undefined;
      } catch (error) {
        return errorMessage(error);
      }
    },
    close: () => closeNamespace(fd),
  };
}

/** A pod whose address is elsewhere would be redirected in the wrong place. */
function requireAddresses(fd: number, path: string, addresses: readonly string[]): void {
  if (addresses.length === 0) throw new MeshError('MESH_NETNS', `the pod in ${path} has no address`);
  const present = new Set(namespaceAddresses(fd).map(formatIp));
  const foreign = addresses.filter((address) => !present.has(formatIp(requireIp(address, path))));
  if (foreign.length === 0) return;
  throw new MeshError('MESH_NETNS', `${path} does not have the address ${foreign.join(', ')}`, {
    remedy: 'the plugins before nodemesh-cni must put the addresses of their result into the namespace',
  });
}
