// SPDX-License-Identifier: Apache-2.0
// Long connections are spread over the workers by hand: the kernel's hash does it well for many short ones, but leaves
// workers without any of a few long ones, and streams stay where their connection is. As soon as a connection is known
// to be one that lasts (HTTP/2, the mesh port, opaque TCP) it goes to the worker that has the fewest: a duplicate of the
// descriptor and what was read, by way of the control thread. A worker alone keeps all.
//
//   accepted here ─▶ it lasts ─▶ fewest here? ─▶ served here
//                                     └────────▶ dup, close, post ─▶ control thread ─▶ another worker: takeConnection

import { descriptorOf } from '#lib/net/descriptor.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { PlainSocket } from '#lib/net/plain-socket.ts';
import type { Protocol } from '../detect/protocol.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import type { HandedConnection } from '../model.ts';
import { countOnce, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';

/** Opaque connections may be short: moving them has to pay. */
export const OPAQUE_SLACK = 4;

/** What another worker found out before it handed the connection over. */
export interface Arrived {
  readonly plain: PlainSocket;
  readonly protocol: Protocol | null;
  readonly first: Buffer | null;
}

/** Long connections of each worker; shared by all threads. */
export class WorkerLoads {
  readonly #loads: Int32Array;
  readonly #own: number;

  constructor(shared: SharedArrayBuffer, own: number) {
    this.#loads = new Int32Array(shared);
    this.#own = own;
  }

  /** Counts one more long connection at the worker that shall have it, and says which that is. */
  assign(slack: number): number {
    const loads = this.#loads;
    const count = loads.length;
    for (;;) {
      const own = Atomics.load(loads, this.#own);
      let [to, fewest] = [this.#own, own];
      for (let step = 1; step < count; step++) {
        const other = (this.#own + step) % count;
        const load = Atomics.load(loads, other);
        if (load < fewest) [to, fewest] = [other, load];
      }
      if (own <= fewest + slack) [to, fewest] = [this.#own, own];
      // Another worker may have chosen the same one meanwhile: then it has one more than was seen.
      if (Atomics.compareExchange(loads, to, fewest, fewest + 1) === fewest) return to;
    }
  }

  /** One that was counted at the worker is there no more. */
  ended(worker = this.#own): void {
    Atomics.sub(this.#loads, worker, 1);
  }

  readonly onClosed = (): void => this.ended();

  get own(): number {
    return this.#own;
  }
}

/** True: the connection is another worker's now. `arrived`: it came from one, and stays. */
export function handedOn(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  connection: Pick<HandedConnection, 'direction' | 'protocol' | 'first'>,
  arrived: Arrived | null,
): boolean {
  const { loads } = context;
  if (loads === null || arrived !== null) return false;
  const { socket } = source;
  const fd = descriptorOf(socket);
  if (fd === undefined) return false;
  const to = loads.assign(connection.protocol === 'opaque' ? OPAQUE_SLACK : 0);
  if (to === loads.own) {
    socket.on('close', loads.onClosed);
    return false;
  }
  let copy: number;
  try {
    copy = context.kernel.duplicate(fd);
  } catch (error) {
    loads.ended(to);
    context.log.warn(
      { pod: pod.name, error: errorMessage(error) },
      'a connection cannot be given to another worker',
    );
    return false;
  }
  countOnce(context, 'nodemesh_connections_handed_over_total', '', pod);
  context.transports.moved(socket);
  context.handOver({ to, uid: pod.uid, fd: copy, ...connection });
  socket.destroy();
  return true;
}

/** The connection that another worker handed over; counted here since it was assigned. Throws MESH_LIMIT. */
export function arrivedConnection(
  { kernel, readiness }: WorkerContext,
  { fd, protocol, first }: HandedConnection,
  loads: WorkerLoads,
): Arrived {
  kernel.keep(fd);
  const plain = new PlainSocket(readiness, fd);
  plain.on('close', loads.onClosed);
  // It came as a view of plain bytes.
  const bytes = first === null ? null : Buffer.from(first.buffer, first.byteOffset, first.byteLength);
  return { plain, protocol, first: bytes };
}
