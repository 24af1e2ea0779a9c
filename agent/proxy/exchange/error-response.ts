// SPDX-License-Identifier: Apache-2.0
// The answers the proxy writes itself, ready-made: no body, `l5d-proxy-error` where Linkerd has it.

import { failures } from '../failure.ts';
import { defineField } from '../http2/hpack/field.ts';
import { HeaderList } from '../http2/hpack/header-list.ts';

const reasons: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  414: 'URI Too Long',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  505: 'HTTP Version Not Supported',
};

const texts: (string | undefined)[] = [];

/** `explained`: whether this client may read the reason (inbound only meshed clients). */
export function errorResponse(failure: number, minor: number, closes: boolean, explained: boolean): string {
  const index = failure * 8 + (minor === 0 ? 4 : 0) + (closes ? 2 : 0) + (explained ? 1 : 0);
  return (texts[index] ??= compose(failure, minor, closes, explained));
}

function compose(failure: number, minor: number, closes: boolean, explained: boolean): string {
  const { status, message } = failures[failure] ?? { status: 500, message: 'unexpected error' };
  const error = explained && message !== '' ? `l5d-proxy-error: ${message}\r\n` : '';
  const connection = closes ? 'connection: close\r\n' : minor === 0 ? 'connection: keep-alive\r\n' : '';
  return `HTTP/1.${minor} ${status} ${reasons[status] ?? 'Error'}\r\n${error}content-length: 0\r\n${connection}\r\n`;
}

/** By HTTP status; what is not here is UNKNOWN for clients, and INTERNAL from us. */
const grpcStatuses: Readonly<Record<number, number>> = { 403: 7, 404: 5, 429: 8, 502: 14, 503: 14, 504: 4 };
const GRPC_INTERNAL = 13;

export function grpcStatusOf(failure: number): number {
  return grpcStatuses[failures[failure]?.status ?? 500] ?? GRPC_INTERNAL;
}

/** For HTTP/2; `grpc`: in the form that gRPC clients read. */
export function errorList(failure: number, grpc: boolean, explained: boolean): HeaderList {
  const { status, message } = failures[failure] ?? { status: 500, message: 'unexpected error' };
  const list = new HeaderList();
  const explains = explained && message !== '';
  list.add(defineField(':status', String(grpc ? 200 : status)));
  list.add(defineField('content-length', '0'));
  if (grpc) {
    list.add(defineField('content-type', 'application/grpc'));
    list.add(defineField('grpc-status', String(grpcStatusOf(failure))));
    if (explains) list.add(defineField('grpc-message', message));
  }
  if (explains) list.add(defineField('l5d-proxy-error', message));
  return list;
}

/** The end of a gRPC answer that cannot go on. */
export function errorTrailers(failure: number, explained: boolean): HeaderList {
  const message = failures[failure]?.message ?? 'unexpected error';
  const list = new HeaderList();
  list.add(defineField('grpc-status', String(grpcStatusOf(failure))));
  if (explained && message !== '') list.add(defineField('grpc-message', message));
  return list;
}
