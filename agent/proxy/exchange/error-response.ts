// SPDX-License-Identifier: Apache-2.0
// The answers the proxy writes itself, ready-made: no body, `l5d-proxy-error` where Linkerd has it.

import { failures } from '../failure.ts';
import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';

import type { RouteAnswer } from './types.ts';

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

/** Who reads an answer: nobody who may know the reason, one of the pod's own applications, another pod's proxy. */
export const READER_STRANGER = 0;
export const READER_OWN = 1;
/** Is also told when its own client should connect anew. */
export const READER_PROXY = 2;

export function errorResponse(failure: number, minor: number, closes: boolean, reader: number): string {
  const index = failure * 12 + (minor === 0 ? 6 : 0) + (closes ? 3 : 0) + reader;
  return (texts[index] ??= compose(failure, minor, closes, reader));
}

function compose(failure: number, minor: number, closes: boolean, reader: number): string {
  const { status, message } = failures[failure] ?? { status: 500, message: 'unexpected error' };
  const error = [
    reader !== READER_STRANGER && message !== '' ? `l5d-proxy-error: ${message}\r\n` : '',
    asksToClose(failure, reader) ? 'l5d-proxy-connection: close\r\n' : '',
  ].join('');
  return `HTTP/1.${minor} ${status} ${reasons[status] ?? 'Error'}\r\n${error}${emptyEnd(minor, closes)}`;
}

/** The end of a head without a body after it. */
function emptyEnd(minor: number, closes: boolean): string {
  const connection = closes ? 'connection: close\r\n' : minor === 0 ? 'connection: keep-alive\r\n' : '';
  return `content-length: 0\r\n${connection}\r\n`;
}

const asksToClose = (failure: number, reader: number): boolean =>
  reader === READER_PROXY && failures[failure]?.closes === true && failures[failure].message !== '';

/** What a route answers, whose words were checked to stand in a field. */
export function routeResponse(answer: RouteAnswer, minor: number, closes: boolean): string {
  const lines = answerFields(answer).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.${minor} ${answer.status} ${reasons[answer.status] ?? ''}\r\n${lines.join('')}${emptyEnd(minor, closes)}`;
}

/** As `routeResponse`, for HTTP/2; `grpc` as in `errorList`. */
export function routeList(answer: RouteAnswer, grpc: boolean): HeaderList {
  const list = new HeaderList();
  list.add(defineField(':status', String(grpc ? 200 : answer.status)));
  list.add(defineField('content-length', '0'));
  if (grpc) {
    list.add(defineField('content-type', 'application/grpc'));
    list.add(defineField('grpc-status', String(answer.grpcStatus)));
    if (answer.message !== '') list.add(defineField('grpc-message', printable(answer.message)));
  }
  for (const [name, value] of answerFields(answer)) list.add(defineField(name, value));
  return list;
}

const answerFields = ({ location, message }: RouteAnswer): (readonly [string, string])[] => [
  ...(location === '' ? [] : [['location', location] as const]),
  ...(message === '' ? [] : [['l5d-proxy-error', printable(message)] as const]),
];

/** Messages may come from resources. */
const printable = (text: string): string => text.replaceAll(/[^\x20-\x7e]/g, '?').trim();

/** By HTTP status; what is not here is UNKNOWN for clients, and INTERNAL from us. */
const grpcStatuses: Readonly<Record<number, number>> = { 403: 7, 404: 5, 429: 8, 502: 14, 503: 14, 504: 4 };
const GRPC_INTERNAL = 13;

export function grpcStatusOf(failure: number): number {
  return grpcStatuses[failures[failure]?.status ?? 500] ?? GRPC_INTERNAL;
}

/** For HTTP/2; `grpc`: in the form that gRPC clients read. */
export function errorList(failure: number, grpc: boolean, reader: number): HeaderList {
  const { status, message } = failures[failure] ?? { status: 500, message: 'unexpected error' };
  const list = new HeaderList();
  const explains = reader !== READER_STRANGER && message !== '';
  list.add(defineField(':status', String(grpc ? 200 : status)));
  list.add(defineField('content-length', '0'));
  if (grpc) {
    list.add(defineField('content-type', 'application/grpc'));
    list.add(defineField('grpc-status', String(grpcStatusOf(failure))));
    if (explains) list.add(defineField('grpc-message', message));
  }
  if (explains) list.add(defineField('l5d-proxy-error', message));
  if (asksToClose(failure, reader)) list.add(defineField('l5d-proxy-connection', 'close'));
  return list;
}

/** The end of a gRPC answer that cannot go on. */
export function errorTrailers(failure: number, reader: number): HeaderList {
  const message = failures[failure]?.message ?? 'unexpected error';
  const list = new HeaderList();
  list.add(defineField('grpc-status', String(grpcStatusOf(failure))));
  if (reader !== READER_STRANGER && message !== '') list.add(defineField('grpc-message', message));
  return list;
}

/** `clientId`: of an inbound client, '' without an identity; undefined: an application of the pod itself. */
export function readerOf(clientId: string | undefined): number {
  if (clientId === undefined) return READER_OWN;
  return clientId === '' ? READER_STRANGER : READER_PROXY;
}
