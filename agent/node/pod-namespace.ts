// SPDX-License-Identifier: Apache-2.0
// A pod's network namespace as enrolment needs it: held open by a descriptor, with listeners made inside.

import { fstatSync, statSync } from 'node:fs';
import { MeshError } from '#lib/core/errors.ts';
import { close } from '#lib/net/native.ts';
import { closeNamespace, openNamespace } from '#lib/net/netns.ts';
import { openListener } from '#lib/net/sockets.ts';

export interface PodNamespace {
  /** Descriptor of the namespace, open until `close`. */
  readonly fd: number;
  /** Address families of the pod's addresses: IPv6 may be switched off in a pod. */
  readonly families: readonly (4 | 6)[];
  /** A listening socket on loopback at a free port; returns its descriptor. */
  openListener(family: 4 | 6): number;
  closeDescriptor(fd: number): void;
  close(): void;
}

/** Throws MESH_NETNS if the path is no namespace, or the host's own one. */
export function openPodNamespace(path: string, addresses: readonly string[]): PodNamespace {
  const fd = openNamespace(path);
  if (fstatSync(fd).ino === statSync('/proc/self/ns/net').ino) {
    closeNamespace(fd);
    throw new MeshError('MESH_NETNS', `${path} is the network namespace of the node itself`, {
      remedy: 'pods with hostNetwork are never enrolled',
    });
  }
  const families: (4 | 6)[] = [];
  if (addresses.some((address) => !address.includes(':'))) families.push(4);
  if (addresses.some((address) => address.includes(':'))) families.push(6);
  return {
    fd,
    families,
    openListener: (family) => openListener(fd, family),
    closeDescriptor: (descriptor) => {
      close(descriptor);
    },
    close: () => closeNamespace(fd),
  };
}
