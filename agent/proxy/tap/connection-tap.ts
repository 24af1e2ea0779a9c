// SPDX-License-Identifier: Apache-2.0
// Tells listeners of a pod of the exchanges of one connection. Whether anybody listens is asked at each request; while
// nobody does, that question is all it costs.

import type { Clock, Random } from '#lib/core/clock.ts';
import {
  type EndpointFacts,
  GRPC_MISSING,
  GRPC_NONE,
  type HttpEndpoint,
  type ObservedExchange,
  type RequestObserver,
} from '../exchange/types.ts';
import { methodOf } from '../exchange/request-target.ts';
import { FAILURE_NONE, failures } from '../failure.ts';
import { fieldValue, findField } from '../http1/field-value.ts';
import type { Head } from '../http1/head.ts';
import { defineField, type Field } from '#lib/http2/hpack/field.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { TapFields, TapListener, TapPeer, TapTrace } from './events.ts';
import { newSpanId, readTrace, type TraceContext, withSpan } from './trace-context.ts';

/** Of a path, and of the fields of one head together; what is longer is cut. */
const TEXT_CHARS_MAX = 2_048;
const FIELDS_CHARS_MAX = 16_384;

export interface ConnectionTapOptions {
  readonly direction: 'inbound' | 'outbound';
  /** Who listens now. */
  readonly taps: { readonly listeners: readonly TapListener[] };
  readonly source: () => TapPeer;
  /** Of an endpoint that says nothing of itself. */
  readonly target: { readonly ip: string; readonly port: number };
  readonly clock: Clock;
  readonly random: Random;
  readonly nextId: () => number;
}

export class ConnectionTap implements RequestObserver {
  readonly #options: ConnectionTapOptions;

  constructor(options: ConnectionTapOptions) {
    this.#options = options;
  }

  http1(head: Head, buffer: Buffer): ObservedExchange | null {
    if (this.#options.taps.listeners.length === 0) return null;
    const listeners = this.#takers();
    if (listeners.length === 0) return null;
    const trace = readTrace((name) => fieldValue(head, buffer, name));
    const spanId = this.#spanId(listeners, trace);
    if (trace !== undefined && spanId !== undefined) {
      const field = findField(head, buffer, trace.field);
      const changed = withSpan(trace, head.value(buffer, field), spanId);
      buffer.write(changed, head.valueStart(buffer, field), 'latin1');
    }
    return new Tapped(this.#options, listeners, {
      version: `HTTP/1.${head.minor}`,
      method: methodOf(buffer, head),
      authority: buffer.toString('latin1', head.hostStart, head.hostEnd),
      path: buffer.toString('latin1', head.targetStart, head.targetEnd).slice(0, TEXT_CHARS_MAX),
      ...traceOf(trace, spanId),
      ...(wantsHeaders(listeners) ? { headers: fieldsOfHead(head, buffer) } : {}),
    });
  }

  http2(list: HeaderList): ObservedExchange | null {
    if (this.#options.taps.listeners.length === 0) return null;
    const listeners = this.#takers();
    if (listeners.length === 0) return null;
    const trace = readTrace((name) => list.get(name)?.value ?? '');
    const spanId = this.#spanId(listeners, trace);
    if (trace !== undefined && spanId !== undefined) {
      const { fields, length } = list;
      const at = fields.findIndex((field, index) => index < length && field.info.text === trace.field);
      fields[at] = defineField(trace.field, withSpan(trace, (fields[at] as Field).value, spanId));
    }
    return new Tapped(this.#options, listeners, {
      version: 'HTTP/2.0',
      method: list.methodField?.value ?? '',
      authority: list.authorityField?.value ?? list.hostField?.value ?? '',
      path: (list.pathField?.value ?? '').slice(0, TEXT_CHARS_MAX),
      ...traceOf(trace, spanId),
      ...(wantsHeaders(listeners) ? { headers: fieldsOfList(list) } : {}),
    });
  }

  #takers(): readonly TapListener[] {
    return this.#options.taps.listeners.filter((listener) => listener.takes());
  }

  #spanId(listeners: readonly TapListener[], trace: TraceContext | undefined): string | undefined {
    if (trace === undefined || !listeners.some(({ traces }) => traces)) return undefined;
    return newSpanId(this.#options.random);
  }
}

interface RequestFacts {
  readonly version: string;
  readonly method: string;
  readonly authority: string;
  readonly path: string;
  readonly trace?: TapTrace;
  readonly headers?: TapFields;
}

class Tapped implements ObservedExchange {
  readonly #options: ConnectionTapOptions;
  readonly #listeners: readonly TapListener[];
  readonly #request: RequestFacts;
  #id = 0;
  #attempt = 0;
  #requestMs = 0;
  #responseMs = Number.NaN;
  #bytes = 0;
  #trailers: (readonly [string, string])[] = [];

  constructor(options: ConnectionTapOptions, listeners: readonly TapListener[], request: RequestFacts) {
    this.#options = options;
    this.#listeners = listeners;
    this.#request = request;
  }

  dispatched(endpoint: HttpEndpoint): void {
    const { direction, clock, source, target, nextId } = this.#options;
    this.#id = nextId();
    this.#attempt++;
    this.#requestMs = clock.nowMs();
    this.#responseMs = Number.NaN;
    this.#bytes = 0;
    this.#trailers = [];
    const { headers, ...request } = this.#request;
    this.#tell((listener) => ({
      type: 'request',
      id: this.#id,
      wallMs: clock.wallMs(),
      direction,
      source: source(),
      destination: endpoint.facts === undefined ? { ...target, tls: 'plain' } : peerOf(endpoint.facts),
      attempt: this.#attempt,
      ...request,
      ...(listener.headers && headers !== undefined ? { headers } : {}),
    }));
  }

  answeredHttp1(head: Head, buffer: Buffer): void {
    this.#answered(head.status, () => fieldsOfHead(head, buffer));
  }

  answeredHttp2(list: HeaderList): void {
    this.#answered(list.status, () => fieldsOfList(list));
  }

  #answered(status: number, fields: () => TapFields): void {
    const now = this.#options.clock.nowMs();
    this.#responseMs = now;
    const headers = wantsHeaders(this.#listeners) ? fields() : [];
    this.#tell((listener) => ({
      type: 'response',
      id: this.#id,
      status,
      sinceRequestMs: now - this.#requestMs,
      ...(listener.headers ? { headers } : {}),
    }));
  }

  passed(bytes: number): void {
    this.#bytes += bytes;
  }

  trailer(buffer: Buffer, start: number, end: number): void {
    if (!wantsHeaders(this.#listeners)) return;
    const line = buffer.toString('latin1', start, end);
    const colon = line.indexOf(':');
    this.#trailers.push([
      line.slice(0, colon),
      line
        .slice(colon + 1)
        .trim()
        .slice(0, TEXT_CHARS_MAX),
    ]);
  }

  trailers(list: HeaderList): void {
    if (wantsHeaders(this.#listeners)) this.#trailers.push(...fieldsOfList(list));
  }

  ended(status: number, failure: number, grpcStatus: number, reset: number): void {
    if (this.#id === 0) return;
    const now = this.#options.clock.nowMs();
    const grpc = grpcStatus !== GRPC_NONE && grpcStatus !== GRPC_MISSING;
    this.#tell((listener) => ({
      type: 'end',
      id: this.#id,
      status,
      sinceRequestMs: now - this.#requestMs,
      ...(Number.isNaN(this.#responseMs) ? {} : { sinceResponseMs: now - this.#responseMs }),
      responseBytes: this.#bytes,
      ...(grpc ? { grpcStatus } : {}),
      ...(reset < 0 ? {} : { reset }),
      ...(failure === FAILURE_NONE ? {} : { error: failures[failure]?.name ?? String(failure) }),
      ...(listener.headers && this.#trailers.length > 0 ? { trailers: this.#trailers } : {}),
    }));
  }

  #tell(event: (listener: TapListener) => Parameters<TapListener['heard']>[0]): void {
    for (const listener of this.#listeners) listener.heard(event(listener));
  }
}

const wantsHeaders = (listeners: readonly TapListener[]): boolean => listeners.some(({ headers }) => headers);

const traceOf = (
  trace: TraceContext | undefined,
  spanId: string | undefined,
): { readonly trace?: TapTrace } => {
  if (trace === undefined) return {};
  const { traceId, parentId, sampled } = trace;
  return { trace: { traceId, parentId, sampled, ...(spanId === undefined ? {} : { spanId }) } };
};

const peerOf = ({ ip, port, tls, identity, labels }: EndpointFacts): TapPeer => ({
  ip,
  port,
  tls,
  ...(identity === undefined ? {} : { identity }),
  labels,
});

/** Fields as long as there is room for them. */
class FieldTexts {
  readonly fields: (readonly [string, string])[] = [];
  #room = FIELDS_CHARS_MAX;

  add(name: string, value: string): void {
    this.#room -= name.length + value.length;
    if (this.#room >= 0) this.fields.push([name, value]);
  }
}

function fieldsOfHead(head: Head, buffer: Buffer): TapFields {
  const texts = new FieldTexts();
  for (let field = 0; field < head.fieldCount; field++) {
    const name = buffer.toString('latin1', head.nameStart(field), head.nameEnd(field));
    texts.add(name, head.value(buffer, field));
  }
  return texts.fields;
}

function fieldsOfList(list: HeaderList): TapFields {
  const texts = new FieldTexts();
  const { methodField, schemeField, authorityField, pathField, statusField } = list;
  for (const field of [methodField, schemeField, authorityField, pathField, statusField]) {
    if (field !== null) texts.add(field.name, field.value);
  }
  for (let index = 0; index < list.length; index++) {
    const field = list.fields[index] as Field;
    texts.add(field.name, field.value);
  }
  return texts.fields;
}
