// SPDX-License-Identifier: Apache-2.0
// The way of one client pod's HTTP requests to an endpoint of the same node: in memory, from the client's exchange to
// the server's policy, counts and application, as if a connection from another node had brought them. The network's
// own policies are kept by a permit (permit.ts): without one nothing passes. It is renewed while it is in use, because an
// established connection outlives a rule that would refuse a new one.
//
//            request waits            granted                    8 s, in use
//   CLOSED ───────────────► ASKING ───────────► OPEN ──────────────────────────► OPEN, and asking again
//      ▲                       │ refused          │ 8 s, not in use                 │ granted: OPEN   10 s: holds new
//      └───────────────────────┴──────────────────┘◄──── refused: cuts what passes ─┘               requests back

import { canonicalIp, formatSocketAddress } from '#lib/core/addresses.ts';
import type { Timer } from '#lib/core/clock.ts';
import { ADMIN_PORT, MESH_PORT, TAP_PORT } from '#lib/core/mesh-ports.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import { inboundLog } from '../access-log/inbound-log.ts';
import type { Passage, Passenger, RequestGate, RequestLog, RequestObserver } from '../exchange/types.ts';
import { FAILURE_CONNECT_OTHER, FAILURE_LIMIT, FAILURE_NONE, failures } from '../failure.ts';
import { defineField, type Field } from '#lib/http2/hpack/field.ts';
import type { Endpoint } from '../model.ts';
import { countOnce, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import type { InboundClient } from '../policy/client.ts';
import { InboundGate } from '../policy/gate.ts';
import { onThisNode } from './dial.ts';
import { type InboundTarget, inboundTarget } from './inbound-target.ts';
import { dialPermit } from './permit.ts';
import { inboundTap } from '../tap/inbound-tap.ts';

/** After this time a permit in use is asked for again. */
const RENEW_MS = 8_000;
/** After this time without a new one no further request enters. */
const VALID_MS = 10_000;
/** A worker that ended in the middle must not look like a refusal. */
const RENEW_ATTEMPTS = 2;
/** Requests of one client and endpoint. */
const WAITING_MAX = 10_000;

/** What the server's side is made of while there is a permit. */
interface ServerSide {
  readonly permit: TcpSource;
  readonly gate: InboundGate;
  readonly application: InboundTarget;
}

export class MemoryPass implements Passage {
  readonly clientIdField: Field;
  readonly log: RequestLog;
  readonly observer: RequestObserver;
  open = false;
  readonly #context: WorkerContext;
  readonly #client: PodState;
  readonly #server: PodState;
  readonly #endpoint: Endpoint;
  /** Told of each permit's connection. */
  readonly #onPermit: (permit: TcpSource) => void;
  readonly #passengers = new Set<Passenger>();
  #waiting: ((failure: number) => void)[] = [];
  #side: ServerSide | null = null;
  /** The client as the server's side sees it: the permit's end. */
  readonly #peer: { -readonly [K in keyof InboundClient]: InboundClient[K] };
  #asking = false;
  #usedSince = false;
  #retired = false;
  #timer: Timer | null = null;
  /** The server's configuration that `stands` looked at last. */
  #seen: object | null = null;
  #fits = false;

  constructor(
    context: WorkerContext,
    client: PodState,
    server: PodState,
    endpoint: Endpoint,
    onPermit: (permit: TcpSource) => void,
  ) {
    this.#context = context;
    this.#client = client;
    this.#server = server;
    this.#endpoint = endpoint;
    this.#onPermit = onPermit;
    const { identity } = client.pod;
    this.clientIdField = defineField('l5d-client-id', identity);
    this.#peer = { ip: '', port: 0, tls: { kind: 'meshed', identity, serverName: '', sameNode: true } };
    this.log = inboundLog(context, server, this.#peer, identity);
    this.observer = inboundTap(context, server, endpoint, this.#peer);
  }

  /** Whether the endpoint is still what this leads to: that pod, under that identity, with HTTP on that port. */
  get stands(): boolean {
    const { pod } = this.#server;
    if (pod !== this.#seen) {
      this.#seen = pod;
      const { port } = this.#endpoint;
      this.#fits =
        onThisNode(this.#context, this.#endpoint) === this.#server &&
        port !== ADMIN_PORT &&
        port !== MESH_PORT &&
        port !== TAP_PORT &&
        !this.#server.isOpaque(port);
    }
    return this.#fits && !this.#server.gone;
  }

  get gate(): RequestGate {
    return (this.#side as ServerSide).gate;
  }

  get application(): InboundTarget {
    return (this.#side as ServerSide).application;
  }

  enter(passenger: Passenger): void {
    this.#usedSince = true;
    this.#passengers.add(passenger);
  }

  leave(passenger: Passenger): void {
    this.#passengers.delete(passenger);
    if (this.#retired && this.#passengers.size === 0) this.#shut();
  }

  whenOpen(done: (failure: number) => void): void {
    if (this.#waiting.length >= WAITING_MAX) {
      setImmediate(done, FAILURE_LIMIT);
      return;
    }
    this.#waiting.push(done);
    this.prepare();
  }

  prepare(): void {
    if (!this.#asking && !this.open) this.#ask(1);
  }

  /** The endpoint is taken out: what is in it goes on to its end. */
  retire(): void {
    this.#retired = true;
    if (this.#passengers.size === 0) this.#shut();
  }

  #ask(attempts: number): void {
    this.#asking = true;
    this.#usedSince = false;
    if (!this.stands || this.#client.gone) {
      setImmediate(() => this.#refused(FAILURE_CONNECT_OTHER));
      return;
    }
    dialPermit(this.#context, this.#client, this.#server, this.#endpoint, (failure, source) => {
      this.#count(source === null ? 'refused' : 'granted');
      if (source !== null) {
        this.#onPermit(source);
        this.#granted(source);
      } else if (attempts > 1) this.#ask(attempts - 1);
      else this.#refused(failure);
    });
  }

  #granted(permit: TcpSource): void {
    this.#asking = false;
    if (permit.socket.destroyed || this.#client.gone || this.#server.gone) {
      this.#refused(FAILURE_CONNECT_OTHER);
      return;
    }
    const before = this.#side;
    this.#side = this.#enterServer(permit);
    release(before);
    permit.socket.on('close', () => this.#lost(permit));
    this.open = true;
    this.#timer?.cancel();
    this.#timer = this.#context.clock.after(RENEW_MS, () => this.#renew());
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const done of waiting) done(FAILURE_NONE);
    if (this.#retired && this.#passengers.size === 0) this.#shut();
  }

  /** Policy and labels are those of now, as with a connection that has just come. */
  #enterServer(permit: TcpSource): ServerSide {
    const { ip, port } = this.#endpoint;
    const server = { ip, port };
    this.#peer.ip = canonicalIp(permit.socket.localAddress ?? '') ?? '';
    this.#peer.port = permit.socket.localPort ?? 0;
    const client = { ...this.#peer };
    return {
      permit,
      gate: new InboundGate(this.#context, this.#server, server, client),
      application: inboundTarget(this.#context, this.#server, server, client),
    };
  }

  #renew(): void {
    if (this.#usedSince || this.#passengers.size > 0) {
      this.#timer = this.#context.clock.after(VALID_MS - RENEW_MS, () => {
        this.open = false;
      });
      if (!this.#asking) this.#ask(RENEW_ATTEMPTS);
    } else if (!this.#asking) this.#shut();
  }

  /** Somebody closed it: the network, or an agent. */
  #lost(permit: TcpSource): void {
    if (this.#side?.permit !== permit || this.#asking) return;
    this.open = false;
    if (this.#usedSince || this.#passengers.size > 0) this.#ask(RENEW_ATTEMPTS);
    else this.#shut();
  }

  #refused(failure: number): void {
    this.#asking = false;
    const { ip, port } = this.#endpoint;
    this.#context.log.warn(
      {
        client: this.#client.name,
        server: this.#server.name,
        endpoint: formatSocketAddress(ip, port),
        failure: failures[failure]?.name,
        cut: this.#passengers.size,
      },
      'the network lets no connection through to a pod of this node: requests do not pass in memory, either',
    );
    this.#shut();
    for (const passenger of this.#passengers) passenger.cut();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const done of waiting) done(failure);
  }

  #shut(): void {
    this.open = false;
    this.#timer?.cancel();
    this.#timer = null;
    const side = this.#side;
    this.#side = null;
    release(side);
  }

  #count(result: 'granted' | 'refused'): void {
    countOnce(this.#context, 'nodemesh_same_node_permits_total', `result="${result}"`, this.#client);
  }
}

function release(side: ServerSide | null): void {
  if (side === null) return;
  side.permit.socket.destroy();
  side.gate.close();
  side.application.release();
}
