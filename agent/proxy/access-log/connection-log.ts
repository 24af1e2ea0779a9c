// SPDX-License-Identifier: Apache-2.0
// The access log of one inbound connection: notes each request at its head and writes its line when the head of its
// answer leaves. Whether lines are wanted is asked at each request, so that an annotation takes effect at once; while
// they are not, that question is all it costs.

import { formatSocketAddress } from '#lib/core/addresses.ts';
import { methodOf } from '../exchange/request-target.ts';
import type { LoggedRequest, RequestLog } from '../exchange/types.ts';
import { fieldValue } from '../http1/field-value.ts';
import type { Head } from '../http1/head.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { AccessLog } from './lines.ts';
import { type AccessLogFormat, type LoggedPod, requestLine } from './request-line.ts';

export interface ConnectionLogOptions {
  readonly log: AccessLog;
  readonly pod: LoggedPod;
  /** '': no lines are wanted now. */
  readonly format: () => AccessLogFormat | '';
  readonly client: { readonly ip: string; readonly port: number };
  readonly clientId: string;
  /** A line had no place. */
  readonly dropped: () => void;
}

/** In the order of Linkerd's preference. */
const TRACE_FIELDS = ['x-b3-traceid', 'x-request-id', 'x-amzn-trace-id'] as const;

interface Fields {
  readonly requestBytes: string;
  readonly userAgent: string;
  readonly host: string;
  readonly traceId: string;
}

export class ConnectionLog implements RequestLog {
  readonly #options: ConnectionLogOptions;

  constructor(options: ConnectionLogOptions) {
    this.#options = options;
  }

  http1(head: Head, buffer: Buffer): LoggedRequest | null {
    if (this.#options.format() === '') return null;
    return new Logged(
      this.#options,
      methodOf(buffer, head),
      buffer.toString('latin1', head.targetStart, head.targetEnd),
      `HTTP/1.${head.minor}`,
      fieldsOf((name) => fieldValue(head, buffer, name)),
    );
  }

  http2(list: HeaderList): LoggedRequest | null {
    if (this.#options.format() === '') return null;
    const authority = list.authorityField?.value ?? '';
    const path = list.pathField?.value ?? '';
    const scheme = list.schemeField?.value;
    const fields = fieldsOf((name) => list.get(name)?.value ?? '');
    return new Logged(
      this.#options,
      list.methodField?.value ?? '',
      scheme === undefined || authority === '' ? `${authority}${path}` : `${scheme}://${authority}${path}`,
      'HTTP/2.0',
      fields.host === '' ? { ...fields, host: authority } : fields,
    );
  }
}

class Logged implements LoggedRequest {
  readonly #options: ConnectionLogOptions;
  readonly #method: string;
  readonly #uri: string;
  readonly #version: string;
  readonly #fields: Fields;
  readonly #wallMs: number;
  readonly #beganMs: number;
  #processingMs = Number.NaN;

  constructor(options: ConnectionLogOptions, method: string, uri: string, version: string, fields: Fields) {
    this.#options = options;
    this.#method = method;
    this.#uri = uri;
    this.#version = version;
    this.#fields = fields;
    this.#wallMs = options.log.wallMs();
    this.#beganMs = options.log.nowMs();
  }

  waits(): void {
    this.#processingMs = this.#options.log.nowMs() - this.#beganMs;
  }

  answered(status: number, responseBytes: number): void {
    const { log, pod, format, client, clientId, dropped } = this.#options;
    const now = format();
    if (now === '') return;
    const totalMs = log.nowMs() - this.#beganMs;
    const line = requestLine(now, pod, {
      clientAddress: formatSocketAddress(client.ip, client.port),
      clientId,
      wallMs: this.#wallMs,
      method: this.#method,
      uri: this.#uri,
      version: this.#version,
      ...this.#fields,
      status,
      responseBytes,
      totalMs,
      processingMs: Number.isNaN(this.#processingMs) ? totalMs : this.#processingMs,
    });
    if (!log.add(line)) dropped();
  }
}

function fieldsOf(value: (name: string) => string): Fields {
  return {
    requestBytes: value('content-length'),
    userAgent: value('user-agent'),
    host: value('host'),
    traceId: TRACE_FIELDS.map(value).find((text) => text !== '') ?? '',
  };
}
