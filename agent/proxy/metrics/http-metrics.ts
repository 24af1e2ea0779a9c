// SPDX-License-Identifier: Apache-2.0
// Request and response counts of one endpoint of one client pod, or of one inbound client. Hot path: a cell is
// looked up once per status, then counting is an addition.

import { grpcFailures } from '#lib/metrics/grpc-failures.ts';
import type { Cell, MetricStore } from '#lib/metrics/store.ts';
import { GRPC_MISSING, GRPC_NONE, type HttpMetrics } from '../exchange/types.ts';
import { FAILURE_NONE } from '../failure.ts';
import { errorName } from '#lib/http2/codes.ts';

/** Statuses above this share the cells of "no status": they are no HTTP. */
const STATUS_MAX = 999;
const GRPC_UNKNOWN = 2;
/** Beyond the codes there are. */
const GRPC_INDEX_MISSING = 31;

export class EndpointHttpMetrics implements HttpMetrics {
  readonly #store: MetricStore;
  readonly #labels: string;
  readonly #owner: string;
  #requests: Cell | null = null;
  readonly #latency: (Cell | undefined)[] = [];
  readonly #responses: (Cell | undefined)[] = [];
  readonly #failures: (Cell | undefined)[] = [];
  readonly #grpc = new Map<number, Cell>();
  readonly #resets = new Map<string, Cell>();
  #closed = false;

  constructor(store: MetricStore, labels: string, owner: string) {
    this.#store = store;
    this.#labels = labels;
    this.#owner = owner;
  }

  requestStarted(): void {
    this.#requests ??= this.#resolve('request_total', this.#labels);
    this.#requests.add(1);
  }

  firstBody(status: number, latencyMs: number): void {
    const code = known(status);
    let cell = this.#latency[code];
    if (cell === undefined) {
      cell = this.#resolve('response_latency_ms', `${this.#labels}${statusLabel(code)}`);
      this.#latency[code] = cell;
    }
    cell.observe(latencyMs);
  }

  responseEnded(status: number, failure: number, grpcStatus: number): void {
    const code = known(status);
    if (grpcStatus !== GRPC_NONE) {
      this.#grpcEnded(code, grpcStatus);
      return;
    }
    const failed = isFailure(status, failure, grpcStatus);
    const cells = failed ? this.#failures : this.#responses;
    let cell = cells[code];
    if (cell === undefined) {
      const error = code === 0 ? ',error="unclassified"' : '';
      cell = this.#resolve('response_total', `${this.#labels}${statusLabel(code)}${outcome(failed)}${error}`);
      cells[code] = cell;
    }
    cell.add(1);
  }

  responseReset(status: number, code: number): void {
    const labels = `${statusLabel(known(status))}${outcome(true)},error="h2(${errorName(code)})"`;
    let cell = this.#resets.get(labels);
    if (cell === undefined) {
      cell = this.#resolve('response_total', `${this.#labels}${labels}`);
      this.#resets.set(labels, cell);
    }
    cell.add(1);
  }

  /** As with Linkerd, where a request waits for an endpoint with a connection: no response of this one. */
  requestReturned(): void {}

  #grpcEnded(code: number, grpcStatus: number): void {
    const index = code * 32 + (grpcStatus === GRPC_MISSING ? GRPC_INDEX_MISSING : grpcStatus);
    let cell = this.#grpc.get(index);
    if (cell === undefined) {
      const shown = grpcStatus === GRPC_MISSING ? GRPC_UNKNOWN : grpcStatus;
      const labels = `${outcome(isFailure(code, FAILURE_NONE, grpcStatus))},grpc_status="${shown}"`;
      cell = this.#resolve('response_total', `${this.#labels}${statusLabel(code)}${labels}`);
      this.#grpc.set(index, cell);
    }
    cell.add(1);
  }

  /** The endpoint or client is gone; a response that is still under way counts on, in series nobody holds. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#requests !== null) this.#store.release(this.#requests);
    for (const cells of [
      this.#latency,
      this.#responses,
      this.#failures,
      [...this.#grpc.values()],
      [...this.#resets.values()],
    ]) {
      for (const cell of cells) if (cell !== undefined) this.#store.release(cell);
    }
  }

  #resolve(family: string, labels: string): Cell {
    const cell = this.#store.cell(family, labels, this.#owner);
    if (this.#closed) this.#store.release(cell);
    return cell;
  }
}

/** Linkerd's classification of a response's end. */
export function isFailure(status: number, failure: number, grpcStatus: number): boolean {
  if (grpcStatus !== GRPC_NONE) return grpcFailures.has(grpcStatus);
  const code = known(status);
  return failure !== FAILURE_NONE || code >= 500 || code === 0;
}

function known(status: number): number {
  return status >= 100 && status <= STATUS_MAX ? status : 0;
}

function statusLabel(code: number): string {
  return code === 0 ? '' : `,status_code="${code}"`;
}

function outcome(failed: boolean): string {
  return `,classification="${failed ? 'failure' : 'success'}"`;
}
