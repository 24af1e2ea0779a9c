// SPDX-License-Identifier: Apache-2.0
// A pod's network namespace as enrolment needs it: held open by a descriptor, with listeners made inside.

export interface PodNamespace {
  /** Descriptor of the namespace, open until `close`. */
  readonly fd: number;
  /** Address families that sockets can be made in; IPv6 may be switched off in a pod. */
  readonly families: readonly (4 | 6)[];
  /** A listening socket on loopback at a free port; returns its descriptor. */
  openListener(family: 4 | 6): number;
  closeDescriptor(fd: number): void;
  close(): void;
}
