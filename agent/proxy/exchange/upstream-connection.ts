// SPDX-License-Identifier: Apache-2.0
// One HTTP/1 connection to an endpoint: in the pool, or lent to the server connection whose request it carries. It
// turns socket events into calls of its holder; what they mean for the client is decided there.

import type { StreamSocket } from '#lib/net/stream-socket.ts';
import type { TimeoutNode } from '../timers/wheel.ts';
import { BodyDecoder, type BodySink } from '../http1/body.ts';
import { PartialHead } from '../http1/partial-head.ts';
import type { IdleList, IdleNode } from '../pool/idle-list.ts';
import { overriddenText } from './authority-override.ts';
import type { TcpSource } from './byte-source.ts';
import type { EndpointSlot } from './endpoint-slot.ts';
import { Outbox, type OutboxOwner } from './outbox.ts';
import type { ServerContext } from './server-context.ts';

/** What holds a connection while it carries a request. */
export interface UpstreamHolder {
  /** Bytes while a response head is expected. */
  onHeadBytes(buffer: Buffer, end: number): void;
  /** A part of the response's body, in the form in which it travels on. */
  onResponseBody(buffer: Buffer, start: number, end: number): void;
  /** A trailer field's line, of a body whose payload only is passed on. */
  onResponseTrailer(buffer: Buffer, start: number, end: number): void;
  /** The body is complete; `clean`: nothing came after it. */
  onResponseEnd(clean: boolean): void;
  onResponseInvalid(): void;
  onTunnelBytes(buffer: Buffer, end: number): void;
  /** FIN of the endpoint. */
  onUpstreamEnd(): void;
  onUpstreamClosed(): void;
  onUpstreamBlocked(): void;
  onUpstreamDrain(): void;
}

const IDLE = 0;
const HEAD = 1;
const BODY = 2;
const TUNNEL = 3;
const CLOSED = 4;

export class UpstreamConnection implements BodySink, IdleNode, TimeoutNode, OutboxOwner {
  idlePrevious: IdleNode | null = null;
  idleNext: IdleNode | null = null;
  timeoutPrevious: TimeoutNode | null = null;
  timeoutNext: TimeoutNode | null = null;
  timeoutTick = 0;
  readonly out: Outbox;
  readonly body: BodyDecoder;
  /** Whether it carried a request before the present one. */
  reused = false;
  /** Whether it is in the pool's list now; the pool keeps it up to date. */
  pooled = false;
  readonly #context: ServerContext;
  readonly #slot: EndpointSlot;
  /** Null: for one request only. */
  readonly #list: IdleList | null;
  readonly #source: TcpSource;
  readonly #socket: StreamSocket;
  #holder: UpstreamHolder | null = null;
  #state = IDLE;
  #paused = true;
  #partial: PartialHead | null = null;

  /** `host` null: not to be pooled. */
  constructor(context: ServerContext, slot: EndpointSlot, host: string | null, source: TcpSource) {
    this.#context = context;
    this.#slot = slot;
    this.#list = host === null ? null : context.pool.join(slot, host);
    this.#source = source;
    this.#socket = source.socket;
    this.out = new Outbox(source.socket, source.encrypted, context.flusher, this);
    this.body = new BodyDecoder(context.responseHead);
    source.onBytes = (buffer, length) => this.#onBytes(buffer, length);
    const socket = source.socket;
    socket.on('end', () => this.#onEnd());
    // 'close' follows and is what counts.
    socket.on('error', (error) => this.#context.log.debug({ err: error }, 'endpoint connection failed'));
    socket.on('close', () => this.#onClose());
    socket.on('drain', () => this.#holder?.onUpstreamDrain());
  }

  /** A request's head and what came behind it. */
  sendRequest(text: string): void {
    const { override } = this.#slot;
    this.out.string(override === null ? text : overriddenText(text, override.text));
  }

  /** Whether the connection ended by an error. */
  get failed(): boolean {
    return this.#socket.errored !== null;
  }

  get usable(): boolean {
    return this.#state === IDLE && !this.#socket.destroyed && this.#socket.writable;
  }

  /** Lends the connection for one request. */
  begin(holder: UpstreamHolder): void {
    this.#holder = holder;
    this.#state = HEAD;
    this.out.mark();
    this.resume();
  }

  /** The response's head was read; `body` was started by the holder, `tunnel` says that none of it matters. */
  headDone(tunnel: boolean): void {
    this.#state = tunnel ? TUNNEL : BODY;
    this.#partial = null;
  }

  /** Decodes body bytes that came with the head, or later. */
  pushBody(buffer: Buffer, start: number, end: number): void {
    const at = this.body.push(buffer, start, end, this);
    const holder = this.#holder;
    if (holder === null) return;
    if (at < 0) holder.onResponseInvalid();
    else if (this.body.done) holder.onResponseEnd(at === end);
  }

  /** Keeps bytes of a head that is not complete. */
  keep(buffer: Buffer, start: number, end: number): void {
    this.#partial = new PartialHead(buffer, start, end);
  }

  /** Takes the connection from its holder: to the pool, or closed. */
  release(reusable: boolean, nowMs: number = this.#context.clock.nowMs()): void {
    this.#holder = null;
    if (this.#state === CLOSED) return;
    this.#state = IDLE;
    this.#partial = null;
    if (reusable && this.#list !== null && this.usable) {
      this.reused = true;
      this.resume();
      this.#context.pool.put(this, this.#list, nowMs);
    } else {
      this.destroy();
    }
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** The client vanished or failed in a tunnel: the endpoint must see an error too. */
  reset(): void {
    this.#source.reset();
  }

  pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#socket.resume();
  }

  onBody(buffer: Buffer, start: number, end: number): void {
    this.#holder?.onResponseBody(buffer, start, end);
  }

  onTrailer(buffer: Buffer, start: number, end: number): void {
    this.#holder?.onResponseTrailer(buffer, start, end);
  }

  onBlocked(): void {
    this.#holder?.onUpstreamBlocked();
  }

  /** Idle for too long. */
  onTimeout(): void {
    this.destroy();
  }

  #onBytes(buffer: Buffer, length: number): void {
    const holder = this.#holder;
    if (holder === null) {
      // Nothing was asked: whatever this is, no request may get it as its answer.
      this.destroy();
      return;
    }
    switch (this.#state) {
      case HEAD: {
        const partial = this.#partial;
        if (partial === null) holder.onHeadBytes(buffer, length);
        else if (partial.append(buffer, 0, length)) {
          this.#partial = null;
          holder.onHeadBytes(partial.bytes, partial.length);
        }
        break;
      }
      case BODY:
        this.pushBody(buffer, 0, length);
        break;
      case TUNNEL:
        holder.onTunnelBytes(buffer, length);
        break;
      default:
        break;
    }
  }

  #onEnd(): void {
    if (this.#holder === null) this.destroy();
    else this.#holder.onUpstreamEnd();
  }

  #onClose(): void {
    if (this.#state === CLOSED) return;
    this.#state = CLOSED;
    const list = this.#list;
    if (list !== null) {
      if (this.pooled) this.#context.pool.remove(this, list);
      this.#context.pool.leave(this.#slot, list);
    }
    const holder = this.#holder;
    this.#holder = null;
    holder?.onUpstreamClosed();
  }
}
