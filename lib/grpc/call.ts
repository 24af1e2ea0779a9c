// SPDX-License-Identifier: Apache-2.0
// gRPC calls as handlers see them, and services as they are registered. What stands behind a call is the server's
// matter; a handler that keeps a call for hours keeps little (server-call.ts).

import type { Metadata } from './status.ts';

/** What a handler wants to hear of its call. */
export interface CallListener {
  /** Once, however the call ends: by its answer, an error, its client, or with its connection. */
  ended?(): void;
  /** What was written when `write` answered false has gone. */
  drained?(): void;
}

export interface ServerCall {
  /** Address and port of the client: names its connection while it lives. */
  readonly peer: string;
  /** From the verified certificate of the call's own connection; undefined if the client showed none. */
  readonly identity: string | undefined;
  readonly ended: boolean;
  /** May be called for several; who comes after the end is told at once. */
  listen(listener: CallListener): void;
}

/** The sending side of a call that is answered with a stream. */
export interface OutStream<Answer> {
  readonly ended: boolean;
  listen(listener: CallListener): void;
  /**
   * False: the client does not keep up. The message waits; no more should be written before `drained`. What many calls
   * are sent is encoded once.
   */
  write(message: Answer | EncodedMessage): boolean;
  end(): void;
  /** Ends the call with the status of a `CallError`; any other error is the server's own. */
  fail(error: unknown): void;
}

export interface ServerStream<Answer> extends ServerCall, OutStream<Answer> {
  /** At once, once, before anything is written. */
  sendMetadata(fields: Metadata): void;
}

export interface MessageReceiver<Question> {
  message(message: Question): void;
  /** The client sends no more. */
  finished(): void;
}

export interface DuplexCall<Question, Answer> extends ServerStream<Answer> {
  /** Who takes the messages from now on. Nobody: they wait, and the client with them when the window is full. */
  receive(receiver: MessageReceiver<Question> | undefined): void;
}

declare const encoded: unique symbol;
/** A message with its prefix, as `encodeMessage` makes it: made once, it can be written to many calls. */
export type EncodedMessage = Buffer & { readonly [encoded]: true };

/** Of a message: a flag that says whether it is compressed, and its length. */
export const PREFIX_BYTES = 5;

/** `kept`: for long, so that it has memory of its own; a part of a common buffer would hold all of that. */
export function encodeMessage(bytes: Uint8Array, kept = false): EncodedMessage {
  const size = PREFIX_BYTES + bytes.length;
  const message = kept ? Buffer.allocUnsafeSlow(size) : Buffer.allocUnsafe(size);
  message[0] = 0;
  message.writeUInt32BE(bytes.length, 1);
  message.set(bytes, PREFIX_BYTES);
  return message as EncodedMessage;
}

/** As generated code describes it. */
export interface MethodDefinition {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestDeserialize: (bytes: Buffer) => unknown;
  readonly responseSerialize: (message: never) => Uint8Array;
}

export type ServiceDefinition = Readonly<Record<string, MethodDefinition>>;

export type UnaryHandler<Question, Answer> = (
  request: Question,
  call: ServerCall,
) => Answer | Promise<Answer>;
export type StreamHandler<Question, Answer> = (request: Question, call: ServerStream<Answer>) => void;
export type DuplexHandler<Question, Answer> = (call: DuplexCall<Question, Answer>) => void;

type HandlerOf<Method extends MethodDefinition> = Method extends {
  readonly requestDeserialize: (bytes: Buffer) => infer Question;
  readonly responseSerialize: (message: infer Answer) => Uint8Array;
}
  ? Method extends { readonly requestStream: true }
    ? Method extends { readonly responseStream: true }
      ? DuplexHandler<Question, Answer>
      : never
    : Method extends { readonly responseStream: true }
      ? StreamHandler<Question, Answer>
      : UnaryHandler<Question, Answer>
  : never;

/** A handler for each method. */
export type Handlers<Service extends ServiceDefinition> = {
  readonly [Name in keyof Service]: HandlerOf<Service[Name]>;
};

/** Where services are added. */
export interface ServiceRegistry {
  addService<Service extends ServiceDefinition>(service: Service, handlers: Handlers<Service>): void;
}
