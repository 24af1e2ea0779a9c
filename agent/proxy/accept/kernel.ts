// SPDX-License-Identifier: Apache-2.0
// What the proxy needs of the kernel: sockets inside pods, and the records that travel with connections. The real
// one is made of lib/bpf and lib/net by worker.ts; tests lay a smaller one over private namespaces.

/** What the kernel knows of an accepted connection. */
export type AcceptedRecord =
  /** A redirected connection of the pod itself, with what it dialled. */
  | { readonly kind: 'outbound'; readonly ip: string; readonly port: number }
  /** The agent's own connection for the pod with this node-wide number. */
  | { readonly kind: 'voucher'; readonly clientPodIndex: number };

export interface WorkerKernel {
  /** TCP sockets inside the namespace, non-blocking, not connected. */
  openSockets(netnsFd: number, family: 4 | 6, count: number): number[];
  /** Two ends of a stream inside this process. Throws MESH_LIMIT. */
  openPair(): [number, number];
  /** A second descriptor of the same socket, for another worker: nobody's here. */
  duplicate(fd: number): number;
  /** The descriptor belongs to a `net.Socket` from now on. */
  handOver(fd: number): void;
  /** Notes one that comes from elsewhere: nobody else would close it if this thread died. Throws MESH_LIMIT. */
  keep(fd: number): void;
  /** For descriptors that were not handed over. */
  closeDescriptor(fd: number): void;
  /** May throw MeshError when the kernel refuses. */
  readAccepted(fd: number): AcceptedRecord | undefined;
  /** The agent's own connect: not redirected. */
  markOwn(fd: number): void;
  /** As markOwn, and vouches for the client pod at the other end. */
  markCarrier(fd: number, clientPodIndex: number): void;
  /** As markOwn, and lets the accepting application see this client as its peer. */
  markClient(fd: number, ip: string, port: number): void;
}
