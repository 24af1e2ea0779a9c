// SPDX-License-Identifier: Apache-2.0
// What the filters of a route do: where a redirect points to, and fields that are added, set or removed, in the text of
// an HTTP/1 head and in a header list. Pure.

import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { FieldChanges, RouteFilter } from '../model.ts';
import type { RoutedRequest } from './routed-request.ts';

export type Redirect = RouteFilter & { readonly kind: 'redirect' };

/** A prefix can be replaced only where a prefix matched, and a location needs a host. */
export const REDIRECT_INVALID = Symbol('invalid redirect');
/** It would lead to where the request is already: the request goes on. */
export const REDIRECT_NOWHERE = Symbol('redirect to itself');

const defaultPorts: Readonly<Record<string, string>> = { http: '80', https: '443' };

/** The value of `location`. `prefixLength`: of the path, what a prefix matched; -1: no prefix did. */
export function redirectLocation(
  redirect: Redirect,
  request: Pick<RoutedRequest, 'scheme' | 'host' | 'path' | 'query'>,
  prefixLength: number,
): string | typeof REDIRECT_INVALID | typeof REDIRECT_NOWHERE {
  const [, host = '', port = ''] = /^(.*?)(?::(\d*))?$/.exec(request.host) ?? [];
  const scheme = redirect.scheme ?? request.scheme;
  const wantedHost = redirect.host ?? host;
  if (wantedHost === '') return REDIRECT_INVALID;
  // Another scheme has a port of its own (Gateway API, HTTPRequestRedirectFilter.port).
  const kept = redirect.scheme === undefined || redirect.scheme === request.scheme ? port : '';
  const path = redirectPath(redirect, request.path, prefixLength);
  if (path === undefined) return REDIRECT_INVALID;
  const wanted = authority(scheme, wantedHost, redirect.port?.toString() ?? kept);
  const location = `${scheme}://${wanted}${path}${request.query}`;
  const original = `${request.scheme}://${authority(request.scheme, host, port)}${request.path}${request.query}`;
  return location === original ? REDIRECT_NOWHERE : location;
}

function redirectPath({ path }: Redirect, original: string, prefixLength: number): string | undefined {
  if (path === undefined) return original;
  if (path.kind === 'full') return path.value === '' ? '/' : path.value;
  if (prefixLength < 0) return undefined;
  const rest = original.slice(prefixLength);
  if (rest === '') return path.value === '' ? '/' : path.value;
  return path.value.replace(/\/+$/, '') + rest;
}

const authority = (scheme: string, host: string, port: string): string =>
  port === '' || port === defaultPorts[scheme] ? host : `${host}:${port}`;

/** `text`: the first line and the fields, each with CRLF, and no empty line. */
export function changeText(text: string, changes: FieldChanges): string {
  const [first = '', ...lines] = text.slice(0, -2).split('\r\n');
  const gone = new Set([...changes.set.map(([name]) => name), ...changes.remove]);
  const kept = lines.filter((line) => !gone.has(line.slice(0, line.indexOf(':')).toLowerCase()));
  const added = newFields(changes).map(([name, value]) => `${name}: ${value}`);
  return `${[first, ...kept, ...added].join('\r\n')}\r\n`;
}

/** In place. `host` is what HTTP/2 calls the authority. */
export function changeList(list: HeaderList, changes: FieldChanges): void {
  const gone = new Set([...changes.set.map(([name]) => name), ...changes.remove]);
  const before = new HeaderList();
  before.copyFrom(list);
  list.clear();
  const pseudo = [
    before.methodField,
    before.schemeField,
    before.authorityField,
    before.pathField,
    before.statusField,
  ];
  const host = changes.set.findLast(([name]) => name === 'host')?.[1];
  for (const field of pseudo) {
    if (field === null) continue;
    list.put(field === before.authorityField && host !== undefined ? defineField(':authority', host) : field);
  }
  for (let index = 0; index < before.length; index++) {
    const field = before.fields[index];
    if (field !== undefined && !gone.has(field.info.text)) list.add(field);
  }
  for (const [name, value] of newFields(changes)) {
    if (name !== 'host' || before.authorityField === null) list.add(defineField(name, value));
  }
}

/** Added first, then set, then removed: what comes later prevails. */
function newFields({ add, set, remove }: FieldChanges): (readonly [string, string])[] {
  const removed = new Set(remove);
  const replaced = new Set([...set.map(([name]) => name), ...remove]);
  return [...add.filter(([name]) => !replaced.has(name)), ...set.filter(([name]) => !removed.has(name))];
}

export const noChanges: readonly FieldChanges[] = [];

/** Of a head, whose last empty line is left away. */
export const changedText = (text: string, changes: readonly FieldChanges[]): string =>
  changes.reduce(changeText, text);
