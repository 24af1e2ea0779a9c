// SPDX-License-Identifier: Apache-2.0
// One call of a gRPC server (a stream of `server-connection.ts`). There may be tens of thousands that say nothing for
// hours, so that a call which has its request keeps a handful of words: what reads the request goes with its end, what
// waits for a window is there only while something waits, and listeners are no event emitter.
//
//   request: HEADERS, DATA …, END_STREAM -> handler -> HEADERS, DATA …, HEADERS with grpc-status and END_STREAM
//
// A call that fails before it was answered has one block of HEADERS ("trailers-only"). After the end of an answer whose
// request goes on, the client is told to stop by RST_STREAM with NO_ERROR (RFC 9113 8.1).

import { errorMessage } from '#lib/core/errors.ts';
import type { Timer } from '#lib/core/clock.ts';
import { FLOW_CONTROL_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED } from '#lib/http2/codes.ts';
import {
  type CallListener,
  type DuplexCall,
  type DuplexHandler,
  type EncodedMessage,
  type MessageReceiver,
  PREFIX_BYTES,
  type StreamHandler,
  type UnaryHandler,
} from './call.ts';
import { COMPRESSED, INCOMPLETE, MessageReader, TOO_LONG } from './message-reader.ts';
import type { GrpcConnection } from './server-connection.ts';
import { CallError, type Metadata, status } from './status.ts';

interface MethodBase {
  readonly path: string;
  readonly decode: (bytes: Buffer) => unknown;
  readonly encode: (message: unknown) => EncodedMessage;
}

/** A method with its handler. */
export type Method = MethodBase &
  (
    | { readonly kind: 'unary'; readonly handler: UnaryHandler<unknown, unknown> }
    | { readonly kind: 'stream'; readonly handler: StreamHandler<unknown, unknown> }
    | { readonly kind: 'duplex'; readonly handler: DuplexHandler<unknown, unknown> }
  );

/** What a request that is none of gRPC is answered with. */
export interface PlainAnswer {
  readonly status: number;
  readonly body: Buffer;
}

const HEAD_SENT = 1;
const REMOTE_ENDED = 2;
/** Its handler has nothing more to say or to hear. */
const ENDED = 4;

/** As much of a request as may be on its way: the default of RFC 9113 6.5.2. */
const RECEIVE_WINDOW = 65_535;

/** What a timer can wait for, 25 days: later deadlines are none. */
const TIMER_MS_MAX = 0x7fff_ffff;

/** The request, while it comes. */
class Incoming {
  readonly reader: MessageReader;
  receiver: MessageReceiver<unknown> | undefined;
  window = RECEIVE_WINDOW;
  uncredited = 0;
  /** By content-length; -1: not known. */
  remaining: number;

  constructor(bytesMax: number, remaining: number) {
    this.reader = new MessageReader(bytesMax);
    this.remaining = remaining;
  }
}

interface Trailers {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;
}

/** What waits for the client to take more. */
interface Waiting {
  readonly messages: Buffer[];
  /** What has gone of the first one. */
  at: number;
  trailers: Trailers | undefined;
}

export class GrpcCall implements DuplexCall<unknown, unknown> {
  readonly id: number;
  sendWindow: number;
  readonly #connection: GrpcConnection;
  /** The answer to what is no call. */
  readonly #method: Method | PlainAnswer;
  #flags = 0;
  #incoming: Incoming | null;
  #waiting: Waiting | null = null;
  #listeners: CallListener | CallListener[] | null = null;
  #timer: Timer | null = null;

  constructor(connection: GrpcConnection, id: number, method: Method | PlainAnswer, remaining: number) {
    this.#connection = connection;
    this.id = id;
    this.#method = method;
    this.sendWindow = connection.peerWindow;
    this.#incoming = new Incoming(connection.server.messageBytesMax, remaining);
  }

  get peer(): string {
    return this.#connection.peer;
  }

  get identity(): string | undefined {
    return this.#connection.identity;
  }

  get ended(): boolean {
    return (this.#flags & ENDED) !== 0;
  }

  /** `remoteEnded`: the request is its head; a message is missing then. */
  begin(remoteEnded: boolean, timeout: number | undefined): void {
    if (timeout !== undefined && timeout <= TIMER_MS_MAX) {
      this.#timer = this.#connection.server.clock.after(timeout, () => {
        this.fail(new CallError(status.DEADLINE_EXCEEDED, `not answered within ${timeout} ms`));
      });
    }
    if ('kind' in this.#method && this.#method.kind === 'duplex') this.#guarded(this.#method.handler);
    if (remoteEnded) this.#requestEnded();
  }

  /** Ends before it began. */
  refuse(error: CallError, remoteEnded: boolean): void {
    if (remoteEnded) this.#flags |= REMOTE_ENDED;
    this.fail(error);
  }

  #guarded(handler: (call: this) => void): void {
    try {
      handler(this);
    } catch (error) {
      this.fail(error);
    }
  }

  listen(listener: CallListener): void {
    if (this.ended) listener.ended?.();
    else if (this.#listeners === null) this.#listeners = listener;
    else if (Array.isArray(this.#listeners)) this.#listeners.push(listener);
    else this.#listeners = [this.#listeners, listener];
  }

  // ---- the answer

  sendMetadata(fields: Metadata): void {
    if (this.ended || (this.#flags & HEAD_SENT) !== 0) return;
    this.#connection.sendHead(this, fields);
    this.#flags |= HEAD_SENT;
  }

  write(message: unknown): boolean {
    if (this.ended || !('kind' in this.#method)) return false;
    // No generated message is a Buffer.
    const encoded = Buffer.isBuffer(message) ? message : this.#method.encode(message);
    const { messageBytesMax } = this.#connection.server;
    if (encoded.length - PREFIX_BYTES > messageBytesMax) {
      const found = `a message of ${encoded.length - PREFIX_BYTES} bytes`;
      this.fail(new CallError(status.RESOURCE_EXHAUSTED, `${found} is longer than ${messageBytesMax}`));
      return false;
    }
    this.sendMetadata({});
    return this.#send(encoded);
  }

  #send(bytes: Buffer): boolean {
    const waiting = this.#waiting;
    const at = waiting === null ? this.#connection.sendData(this, bytes, 0) : 0;
    if (at === bytes.length) return true;
    if (waiting === null) this.#waiting = { messages: [bytes], at, trailers: undefined };
    else waiting.messages.push(bytes);
    this.#connection.unsent(bytes.length - at);
    return false;
  }

  /** A window has opened. */
  proceed(): void {
    const waiting = this.#waiting;
    if (waiting === null) return;
    for (let [first] = waiting.messages; first !== undefined; [first] = waiting.messages) {
      const at = this.#connection.sendData(this, first, waiting.at);
      this.#connection.unsent(waiting.at - at);
      waiting.at = at;
      if (at < first.length) return;
      waiting.at = 0;
      waiting.messages.shift();
    }
    this.#waiting = null;
    if (waiting.trailers !== undefined) this.#sendTrailers(waiting.trailers);
    else if (!('kind' in this.#method)) this.#connection.sendEnd(this);
    else this.#each((listener) => listener.drained?.());
  }

  end(): void {
    this.#end({ code: status.OK, details: 'OK', metadata: {} });
  }

  fail(error: unknown): void {
    if (this.ended) return;
    if (error instanceof CallError) {
      this.#end(error);
      return;
    }
    const call = 'kind' in this.#method ? this.#method.path : '';
    this.#connection.server.log.error({ call, error: errorMessage(error) }, 'a call failed');
    this.#end({ code: status.INTERNAL, details: 'an internal error, see the log', metadata: {} });
  }

  #end(trailers: Trailers): void {
    if (this.ended) return;
    this.#settle();
    const waiting = this.#waiting;
    if (waiting !== null && trailers.code !== status.OK) {
      // A message that was begun is ended; what is behind it has no use any more.
      for (const message of waiting.messages.splice(waiting.at > 0 ? 1 : 0))
        this.#connection.unsent(-message.length);
    }
    if (waiting !== null && waiting.messages.length > 0) waiting.trailers = trailers;
    else this.#sendTrailers(trailers);
  }

  #sendTrailers({ code, details, metadata }: Trailers): void {
    const { id } = this;
    this.#waiting = null;
    this.#connection.sendTrailers(this, (this.#flags & HEAD_SENT) !== 0, code, details, metadata);
    if ((this.#flags & REMOTE_ENDED) === 0) this.#connection.sendReset(id, NO_ERROR);
    this.#connection.forget(this);
  }

  /** The stream has ended under it: by its client, or with the connection. */
  lost(): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting !== null) {
      let bytes = -waiting.at;
      for (const { length } of waiting.messages) bytes += length;
      this.#connection.unsent(-bytes);
    }
    this.#settle();
  }

  #settle(): void {
    if (this.ended) return;
    this.#flags |= ENDED;
    this.#timer?.cancel();
    this.#timer = null;
    const incoming = this.#incoming;
    if (incoming !== null) this.#connection.held(-incoming.reader.held);
    this.#incoming = null;
    this.#each((listener) => listener.ended?.());
    this.#listeners = null;
  }

  #each(tell: (listener: CallListener) => void): void {
    const listeners = this.#listeners;
    if (Array.isArray(listeners)) for (const listener of listeners) tell(listener);
    else if (listeners !== null) tell(listeners);
  }

  // ---- the request

  /** Each answers NO_ERROR, or the error that the stream ends with. */
  onData(buffer: Buffer, start: number, end: number, flowBytes: number, endStream: boolean): number {
    if ((this.#flags & REMOTE_ENDED) !== 0) return STREAM_CLOSED;
    const incoming = this.#incoming;
    // The answer's end waits for a window: what still comes is of no use.
    if (incoming === null) {
      if (endStream) this.#flags |= REMOTE_ENDED;
      return NO_ERROR;
    }
    incoming.window -= flowBytes;
    if (incoming.window < 0) return FLOW_CONTROL_ERROR;
    if (incoming.remaining >= 0) {
      incoming.remaining -= end - start;
      if (incoming.remaining < 0 || (endStream && incoming.remaining > 0)) return PROTOCOL_ERROR;
    }
    incoming.uncredited += flowBytes;
    if ('kind' in this.#method) {
      incoming.reader.push(buffer, start, end);
      if (!this.#connection.held(end - start)) {
        this.fail(new CallError(status.RESOURCE_EXHAUSTED, 'too much has come of requests that go on'));
        return NO_ERROR;
      }
    }
    if (endStream) this.#requestEnded();
    else this.#go(incoming);
    return NO_ERROR;
  }

  onTrailers(endStream: boolean): number {
    if ((this.#flags & REMOTE_ENDED) !== 0) return STREAM_CLOSED;
    const incoming = this.#incoming;
    if (!endStream || (incoming !== null && incoming.remaining > 0)) return PROTOCOL_ERROR;
    this.#requestEnded();
    return NO_ERROR;
  }

  #requestEnded(): void {
    this.#flags |= REMOTE_ENDED;
    const incoming = this.#incoming;
    if (incoming === null) return;
    const method = this.#method;
    if (!('kind' in method)) {
      this.#answerPlainly(method);
      return;
    }
    if (method.kind === 'duplex') {
      this.#take(incoming);
      return;
    }
    const message = incoming.reader.next();
    if (typeof message === 'number') {
      this.#refuse(message);
      return;
    }
    this.#connection.held(-message.length - PREFIX_BYTES);
    if (incoming.reader.held > 0) {
      this.fail(new CallError(status.INTERNAL, 'a call of this method has one message'));
      return;
    }
    this.#incoming = null;
    this.#guarded(() => {
      const request = decoded(method, message);
      if (method.kind === 'stream') method.handler(request, this);
      else void this.#answer(method.handler, request);
    });
  }

  async #answer(handler: UnaryHandler<unknown, unknown>, request: unknown): Promise<void> {
    try {
      const answer = await handler(request, this);
      this.write(answer);
      this.end();
    } catch (error) {
      this.fail(error);
    }
  }

  #answerPlainly(answer: PlainAnswer): void {
    this.#connection.sendPlainHead(this, answer);
    this.#settle();
    if (this.#send(answer.body)) this.#connection.sendEnd(this);
  }

  /** More of the request has come, and it goes on. */
  #go(incoming: Incoming): void {
    const method = this.#method;
    if ('kind' in method) {
      if (method.kind === 'duplex') {
        this.#take(incoming);
      } else {
        const problem = incoming.reader.problem;
        if (problem !== INCOMPLETE) this.#refuse(problem);
      }
      if (this.ended || (method.kind === 'duplex' && incoming.receiver === undefined)) return;
    }
    if (incoming.uncredited * 2 < RECEIVE_WINDOW) return;
    this.#connection.sendWindowUpdate(this.id, incoming.uncredited);
    incoming.window += incoming.uncredited;
    incoming.uncredited = 0;
  }

  #refuse(problem: typeof INCOMPLETE | typeof TOO_LONG | typeof COMPRESSED): void {
    const { messageBytesMax } = this.#connection.server;
    switch (problem) {
      case INCOMPLETE:
        this.fail(new CallError(status.INTERNAL, 'the request ends before its message does'));
        return;
      case TOO_LONG:
        this.fail(
          new CallError(status.RESOURCE_EXHAUSTED, `a message is longer than ${messageBytesMax} bytes`),
        );
        return;
      case COMPRESSED:
        this.fail(
          new CallError(status.INTERNAL, 'a message is marked as compressed, and the call names no encoding'),
        );
    }
  }

  receive(receiver: MessageReceiver<unknown> | undefined): void {
    const incoming = this.#incoming;
    if (incoming === null) return;
    incoming.receiver = receiver;
    if (receiver === undefined) return;
    if ((this.#flags & REMOTE_ENDED) !== 0) this.#take(incoming);
    else this.#go(incoming);
  }

  /** Hands out what has come of a stream of requests, as long as there is somebody to take it. */
  #take(incoming: Incoming): void {
    const method = this.#method;
    if (!('kind' in method)) return;
    while (incoming.receiver !== undefined && !this.ended) {
      const { receiver } = incoming;
      const message = incoming.reader.next();
      if (message === INCOMPLETE) {
        if ((this.#flags & REMOTE_ENDED) === 0) return;
        if (incoming.reader.held > 0) {
          this.#refuse(INCOMPLETE);
          return;
        }
        incoming.receiver = undefined;
        this.#guarded(() => receiver.finished());
        return;
      }
      if (typeof message === 'number') {
        this.#refuse(message);
        return;
      }
      this.#connection.held(-message.length - PREFIX_BYTES);
      this.#guarded(() => receiver.message(decoded(method, message)));
    }
  }
}

function decoded(method: Method, message: Buffer): unknown {
  try {
    return method.decode(message);
  } catch (error) {
    throw new CallError(status.INTERNAL, `the request cannot be read: ${errorMessage(error)}`);
  }
}
