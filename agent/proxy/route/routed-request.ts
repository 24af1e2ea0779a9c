// SPDX-License-Identifier: Apache-2.0
// What routes look at of a request, read from an HTTP/1 head or a header list only where a rule asks for it. Holds
// until the head's bytes are used up. Made for requests to services with routes only.

import { methodOf } from '../exchange/request-target.ts';
import { FORM_ABSOLUTE, FORM_AUTHORITY, type Head } from '../http1/head.ts';
import type { HeaderList } from '#lib/http2/hpack/header-list.ts';

export interface RoutedRequest {
  readonly method: string;
  /** `http` or what an absolute target says. */
  readonly scheme: string;
  /** Host, perhaps with a port; empty if there is none. */
  readonly host: string;
  /** Without query; empty for CONNECT. */
  readonly path: string;
  /** With its question mark, or empty. */
  readonly query: string;
  /** All values of a field; the name in lower case. */
  fields(name: string): readonly string[];
  /** All values of a query parameter, decoded. */
  parameters(name: string): readonly string[];
}

abstract class PathAndQuery {
  readonly path: string;
  readonly query: string;
  #parameters: URLSearchParams | null = null;

  constructor(target: string) {
    const bare = target.split('#', 1)[0] ?? '';
    const at = bare.indexOf('?');
    this.path = at < 0 ? bare : bare.slice(0, at);
    this.query = at < 0 ? '' : bare.slice(at);
  }

  parameters(name: string): readonly string[] {
    if (this.query === '') return [];
    this.#parameters ??= new URLSearchParams(this.query);
    return this.#parameters.getAll(name);
  }
}

/** An HTTP/1 request whose head was parsed and lies in `buffer`. */
export class Http1RoutedRequest extends PathAndQuery implements RoutedRequest {
  readonly method: string;
  readonly scheme: string;
  readonly host: string;
  readonly #head: Head;
  readonly #buffer: Buffer;

  constructor(head: Head, buffer: Buffer) {
    const { form, hostStart, hostEnd, targetStart, targetEnd } = head;
    const absolute = form === FORM_ABSOLUTE;
    const target = buffer.toString('latin1', absolute ? hostEnd : targetStart, targetEnd);
    // A query right after the authority has the root before it.
    super(form === FORM_AUTHORITY ? '' : target.startsWith('/') || target === '*' ? target : `/${target}`);
    this.method = methodOf(buffer, head);
    this.scheme = absolute ? buffer.toString('latin1', targetStart, hostStart - 3).toLowerCase() : 'http';
    this.host = buffer.toString('latin1', hostStart, hostEnd);
    this.#head = head;
    this.#buffer = buffer;
  }

  fields(name: string): readonly string[] {
    const head = this.#head;
    const buffer = this.#buffer;
    const values: string[] = [];
    for (let field = 0; field < head.fieldCount; field++) {
      const start = head.nameStart(field);
      const end = head.nameEnd(field);
      if (end - start !== name.length) continue;
      if (buffer.toString('latin1', start, end).toLowerCase() !== name) continue;
      values.push(head.value(buffer, field));
    }
    return values;
  }
}

/** A validated HTTP/2 request. */
export class Http2RoutedRequest extends PathAndQuery implements RoutedRequest {
  readonly method: string;
  readonly scheme: string;
  readonly host: string;
  readonly #list: HeaderList;

  constructor(list: HeaderList) {
    super(list.pathField?.value ?? '');
    this.method = list.methodField?.value ?? '';
    this.scheme = list.schemeField?.value ?? 'http';
    this.host = list.authorityField?.value ?? list.hostField?.value ?? '';
    this.#list = list;
  }

  fields(name: string): readonly string[] {
    const { fields, length } = this.#list;
    const values: string[] = [];
    for (let index = 0; index < length; index++) {
      const field = fields[index];
      if (field?.info.text === name) values.push(field.value);
    }
    // HTTP/1 has it as `host`, and a rule shall not have to know what a client speaks.
    if (name === 'host' && values.length === 0 && this.host !== '') values.push(this.host);
    return values;
  }
}
