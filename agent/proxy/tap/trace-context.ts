// SPDX-License-Identifier: Apache-2.0
// The trace that a request says it belongs to, and a new span's id in the place of its parent's: W3C `traceparent`
// (version 00), gRPC's `grpc-trace-bin`, B3 in several fields; the first of them that is there and well-formed counts,
// as with Linkerd. B3 in one field, `tracestate` and baggage are left alone. Pure.

import type { Random } from '#lib/core/clock.ts';

export interface TraceContext {
  /** 32 hexadecimal digits. */
  readonly traceId: string;
  /** The span that sent the request: 16 hexadecimal digits. */
  readonly parentId: string;
  readonly sampled: boolean;
  /** The field in which the parent's id stands. */
  readonly field: 'traceparent' | 'grpc-trace-bin' | 'x-b3-spanid';
}

const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;
const B3_TRACE_ID = /^(?:[0-9a-f]{16}|[0-9a-f]{32})$/;
const B3_SPAN_ID = /^[0-9a-f]{16}$/;
const BASE64 = /^[A-Za-z0-9+/]{39}=?$/;
const ZEROS = /^0+$/;

// version 0 │ 0, trace id (16) │ 1, span id (8) │ 2, flags (1)
const BINARY_BYTES = 29;
const BINARY_TRACE_AT = 2;
const BINARY_SPAN_AT = 19;
const BINARY_FLAGS_AT = 28;

/** `value` gives the first field of a name (in lower case), or ''. */
export function readTrace(value: (name: string) => string): TraceContext | undefined {
  return readW3c(value('traceparent')) ?? readBinary(value('grpc-trace-bin')) ?? readB3(value);
}

function readW3c(text: string): TraceContext | undefined {
  const [, traceId = '', parentId = '', flags = ''] = TRACEPARENT.exec(text) ?? [];
  return context('traceparent', traceId, parentId, (Number.parseInt(flags, 16) & 1) === 1);
}

function readBinary(text: string): TraceContext | undefined {
  if (!BASE64.test(text)) return undefined;
  const bytes = Buffer.from(text, 'base64');
  const [version, first] = bytes;
  if (bytes.length !== BINARY_BYTES || version !== 0 || first !== 0) return undefined;
  if (bytes[BINARY_SPAN_AT - 1] !== 1 || bytes[BINARY_FLAGS_AT - 1] !== 2) return undefined;
  const traceId = bytes.toString('hex', BINARY_TRACE_AT, BINARY_SPAN_AT - 1);
  const parentId = bytes.toString('hex', BINARY_SPAN_AT, BINARY_FLAGS_AT - 1);
  return context('grpc-trace-bin', traceId, parentId, ((bytes[BINARY_FLAGS_AT] as number) & 1) === 1);
}

function readB3(value: (name: string) => string): TraceContext | undefined {
  const traceId = value('x-b3-traceid');
  const parentId = value('x-b3-spanid');
  if (!B3_TRACE_ID.test(traceId) || !B3_SPAN_ID.test(parentId)) return undefined;
  return context('x-b3-spanid', traceId.padStart(32, '0'), parentId, value('x-b3-sampled') === '1');
}

function context(
  field: TraceContext['field'],
  traceId: string,
  parentId: string,
  sampled: boolean,
): TraceContext | undefined {
  if (traceId === '' || ZEROS.test(traceId) || ZEROS.test(parentId)) return undefined;
  return { traceId, parentId, sampled, field };
}

/** What the context's field says with another span's id in it: as long as before. `text` is what it says now. */
export function withSpan({ field }: TraceContext, text: string, spanId: string): string {
  if (field === 'x-b3-spanid') return spanId;
  if (field === 'traceparent') return `${text.slice(0, 36)}${spanId}${text.slice(52)}`;
  const bytes = Buffer.from(text, 'base64');
  bytes.write(spanId, BINARY_SPAN_AT, 'hex');
  return bytes.toString('base64').slice(0, text.length);
}

/** 16 hexadecimal digits, not all zero. */
export function newSpanId(random: Random): string {
  const half = (): string =>
    Math.floor(random() * 0x1_0000_0000)
      .toString(16)
      .padStart(8, '0');
  const id = half() + half();
  return ZEROS.test(id) ? '0000000000000001' : id;
}
