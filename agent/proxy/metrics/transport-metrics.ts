// SPDX-License-Identifier: Apache-2.0
// Connection counts and bytes per label set (tcp_* families). Bytes are read off the sockets once a second and at
// their end, so that no chunk on the way pays for counting.

import { errnoName } from '#lib/core/errors.ts';
import { joinLabels } from '#lib/metrics/model.ts';
import type { Cell, MetricStore } from '#lib/metrics/store.ts';
import { ofSocket } from '#lib/net/of-socket.ts';
import type { StreamSocket } from '#lib/net/stream-socket.ts';

interface Transport {
  readonly key: string;
  readonly labels: string;
  readonly owner: string;
  readonly opened: Cell;
  readonly open: Cell;
  readonly read: Cell;
  readonly written: Cell;
  readonly received: Cell | null;
  readonly sent: Cell | null;
  /** `tcp_close_total` by errno. */
  readonly closes: Map<string, Cell>;
  connections: number;
}

/** Where the endpoint of an outbound connection is, as discovery says. */
export interface ZoneCost {
  readonly locality: 'Unknown' | 'Local' | 'Remote';
  readonly podLabels: string;
}

interface Tracked {
  readonly socket: StreamSocket;
  readonly transport: Transport;
  read: number;
  written: number;
  errno: string;
}

export class TransportMetrics {
  readonly #store: MetricStore;
  readonly #transports = new Map<string, Transport>();
  readonly #tracked = new Map<StreamSocket, Tracked>();

  readonly #onError = ofSocket((socket, error: Error) => {
    const tracked = this.#tracked.get(socket);
    if (tracked !== undefined) tracked.errno = errnoName(error) ?? 'unexpected';
  });
  readonly #onClose = ofSocket((socket) => {
    const tracked = this.#tracked.get(socket);
    if (tracked !== undefined) this.#closed(tracked);
  });

  constructor(store: MetricStore) {
    this.#store = store;
  }

  get connections(): number {
    return this.#tracked.size;
  }

  /**
   * Counts a connection until its 'close'; TLS connections are given as their decrypted side. `cost`: also what zones
   * cost, see `ZoneCost`.
   */
  track(socket: StreamSocket, labels: string, owner: string, cost: ZoneCost | null = null): void {
    const transport = this.#transport(labels, owner, cost);
    transport.opened.add(1);
    this.#follow(socket, transport);
  }

  /** As `track`, of a connection that another worker has counted as opened. */
  trackArrived(socket: StreamSocket, labels: string, owner: string): void {
    this.#follow(socket, this.#transport(labels, owner, null));
  }

  /** Another worker counts it from now on. */
  moved(socket: StreamSocket): void {
    const tracked = this.#tracked.get(socket);
    if (tracked === undefined) return;
    this.#tracked.delete(socket);
    sampleBytes(tracked);
    tracked.transport.open.add(-1);
    this.#leave(tracked.transport);
  }

  #follow(socket: StreamSocket, transport: Transport): void {
    transport.connections++;
    transport.open.add(1);
    const tracked: Tracked = { socket, transport, read: 0, written: 0, errno: '' };
    this.#tracked.set(socket, tracked);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
    if (socket.destroyed) this.#closed(tracked);
  }

  /** Called once a second. */
  sample(): void {
    for (const tracked of this.#tracked.values()) sampleBytes(tracked);
  }

  #closed(tracked: Tracked): void {
    if (!this.#tracked.delete(tracked.socket)) return;
    sampleBytes(tracked);
    const { transport } = tracked;
    transport.open.add(-1);
    this.#closesOf(transport, tracked.errno).add(1);
    this.#leave(transport);
  }

  #leave(transport: Transport): void {
    if (--transport.connections > 0) return;
    this.#transports.delete(transport.key);
    const { opened, open, read, written, received, sent, closes } = transport;
    for (const cell of [opened, open, read, written, received, sent, ...closes.values()]) {
      if (cell !== null) this.#store.release(cell);
    }
  }

  #closesOf({ closes, labels, owner }: Transport, errno: string): Cell {
    let cell = closes.get(errno);
    if (cell === undefined) {
      cell = this.#store.cell('tcp_close_total', joinLabels(labels, `errno="${errno}"`), owner);
      closes.set(errno, cell);
    }
    return cell;
  }

  #cost(op: 'Send' | 'Recv', owner: string, cost: ZoneCost | null): Cell | null {
    if (cost === null) return null;
    const labels = joinLabels(`op="${op}",zone_locality="${cost.locality}"`, cost.podLabels);
    return this.#store.cell('outbound_tcp_transfer_cost_bytes_total', labels, owner);
  }

  #transport(labels: string, owner: string, cost: ZoneCost | null): Transport {
    const key = labels;
    let transport = this.#transports.get(key);
    if (transport === undefined) {
      transport = {
        key,
        labels,
        owner,
        opened: this.#store.cell('tcp_open_total', labels, owner),
        open: this.#store.cell('tcp_open_connections', labels, owner),
        read: this.#store.cell('tcp_read_bytes_total', labels, owner),
        written: this.#store.cell('tcp_write_bytes_total', labels, owner),
        received: this.#cost('Recv', owner, cost),
        sent: this.#cost('Send', owner, cost),
        closes: new Map(),
        connections: 0,
      };
      this.#transports.set(key, transport);
    }
    return transport;
  }
}

function sampleBytes(tracked: Tracked): void {
  const { socket, transport } = tracked;
  // After the end `bytesRead` is undefined in the typings' blind spot (a handle that is gone): keep what we have.
  const read = socket.bytesRead;
  const written = socket.bytesWritten;
  if (read > tracked.read) {
    transport.read.add(read - tracked.read);
    transport.received?.add(read - tracked.read);
    tracked.read = read;
  }
  if (written > tracked.written) {
    transport.written.add(written - tracked.written);
    transport.sent?.add(written - tracked.written);
    tracked.written = written;
  }
}
