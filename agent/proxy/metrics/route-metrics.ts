// SPDX-License-Identifier: Apache-2.0
// Linkerd's newer families: requests by route and by route and backend outbound, by server and route inbound. Hot path:
// cells are resolved at their first use and kept.

import type { Cell } from '#lib/metrics/store.ts';
import type { BackendCounts, StreamCounts } from '../exchange/types.ts';
import type { BalancerSeries } from './balancer-metrics.ts';
import { cellAt, type SeriesPlace } from './series-place.ts';

/** By what a route is: gRPC routes (GRPCRoute, servers said to be gRPC) have families of their own. */
export type RouteKind = 'http' | 'grpc';

interface StreamFamilies {
  readonly requests?: string;
  readonly duration: string;
  readonly statuses?: string;
  readonly frames: string;
  /** How the outcome is written: inbound families have one label for both kinds, and no errors. */
  readonly inbound: boolean;
}

export const outboundRouteFamilies = (kind: RouteKind): StreamFamilies => ({
  duration: `outbound_${kind}_route_request_duration_seconds`,
  statuses: `outbound_${kind}_route_request_statuses_total`,
  frames: `outbound_${kind}_route_request_frame_size_bytes`,
  inbound: false,
});

export const outboundBackendFamilies = (kind: RouteKind): StreamFamilies => ({
  requests: `outbound_${kind}_route_backend_requests_total`,
  duration: `outbound_${kind}_route_backend_response_duration_seconds`,
  statuses: `outbound_${kind}_route_backend_response_statuses_total`,
  frames: `outbound_${kind}_route_backend_response_frame_size_bytes`,
  inbound: false,
});

export const inboundRequestFamilies = (kind: RouteKind): StreamFamilies => ({
  duration: `inbound_${kind}_request_duration_seconds`,
  statuses: `inbound_${kind}_statuses_total`,
  frames: `inbound_${kind}_request_frame_size_bytes`,
  inbound: true,
});

export const inboundResponseFamilies = (kind: RouteKind): StreamFamilies => ({
  requests: `inbound_${kind}_requests_total`,
  duration: `inbound_${kind}_response_duration_seconds`,
  frames: `inbound_${kind}_response_frame_size_bytes`,
  inbound: true,
});

const grpcNames = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
] as const;

export class StreamSeries implements StreamCounts, BackendCounts {
  readonly #place: SeriesPlace;
  readonly #kind: RouteKind;
  readonly #families: StreamFamilies;
  readonly #labels: string;
  readonly #balancer: BalancerSeries | null;
  #requests: Cell | null = null;
  #duration: Cell | null = null;
  #frames: Cell | null = null;
  /** By status; only those without an error. */
  readonly #statuses: (Cell | undefined)[] = [];
  readonly #errors = new Map<string, Cell>();
  #closed = false;

  constructor(
    place: SeriesPlace,
    kind: RouteKind,
    families: StreamFamilies,
    labels: string,
    balancer: BalancerSeries | null = null,
  ) {
    this.#place = place;
    this.#kind = kind;
    this.#families = families;
    this.#labels = labels;
    this.#balancer = balancer;
  }

  started(): void {
    this.#count();
    this.#balancer?.passed();
  }

  waits(): void {
    this.#count();
    this.#balancer?.waits();
  }

  waited(seconds: number): void {
    this.#balancer?.waited(seconds);
  }

  frame(bytes: number): void {
    this.#frames ??= this.#cell(this.#families.frames, '');
    this.#frames.observe(bytes);
  }

  ended(seconds: number, status: number, grpcStatus: number, error: string): void {
    this.#duration ??= this.#cell(this.#families.duration, '');
    this.#duration.observe(seconds);
    const { statuses, inbound } = this.#families;
    if (statuses === undefined) return;
    const code = this.#kind === 'http' ? status : grpcStatus < 0 ? grpcNames.length : grpcStatus;
    if (error === '' || inbound) {
      let cell = this.#statuses[code];
      if (cell === undefined) {
        cell = this.#cell(statuses, this.#outcome(code, ''));
        this.#statuses[code] = cell;
      }
      cell.add(1);
      return;
    }
    const outcome = this.#outcome(code, error);
    let cell = this.#errors.get(outcome);
    if (cell === undefined) {
      cell = this.#cell(statuses, outcome);
      this.#errors.set(outcome, cell);
    }
    cell.add(1);
  }

  /** What is under way counts on, in series nobody holds. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    const cells = [this.#requests, this.#duration, this.#frames, ...this.#statuses, ...this.#errors.values()];
    for (const cell of cells) if (cell !== null && cell !== undefined) this.#place.store.release(cell);
  }

  #count(): void {
    const { requests } = this.#families;
    if (requests === undefined) return;
    this.#requests ??= this.#cell(requests, '');
    this.#requests.add(1);
  }

  #outcome(code: number, error: string): string {
    if (this.#families.inbound) {
      const none = this.#kind === 'http' ? code === 0 : code >= grpcNames.length;
      return `status="${none ? '' : code}"`;
    }
    const status =
      this.#kind === 'http'
        ? `http_status="${code === 0 ? '' : code}"`
        : `grpc_status="${grpcNames[code] ?? 'UNKNOWN'}"`;
    return `${status},error="${error}"`;
  }

  #cell(family: string, outcome: string): Cell {
    const cell = cellAt(this.#place, family, this.#labels, outcome);
    if (this.#closed) this.#place.store.release(cell);
    return cell;
  }
}
