// SPDX-License-Identifier: Apache-2.0
// Requests to an endpoint that wants another authority than its clients name: a gateway of another cluster, which finds
// the service behind it by that. `host` and `l5d-dst-canonical` would say otherwise and stay behind, as with Linkerd.

import { defineField, type Field } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';

export interface AuthorityOverride {
  readonly text: string;
  /** `:authority` */
  readonly field: Field;
}

/** `text`: a name, perhaps with a port. */
export const authorityOverride = (text: string): AuthorityOverride => ({
  text,
  field: defineField(':authority', text),
});

/** The names of fields that stay behind. */
export const overriddenNames: ReadonlySet<string> = new Set(['host', 'l5d-dst-canonical']);
const overriddenLine = new RegExp(`^(?:${[...overriddenNames].join('|')}):`, 'i');

export function overriddenList(list: HeaderList, { field }: AuthorityOverride): HeaderList {
  const made = new HeaderList();
  made.copyFrom(list);
  made.dropNames(overriddenNames);
  made.hostField = null;
  made.authorityField = field;
  // It may be longer than the other one.
  made.bytes += field.bytes;
  return made;
}

/** `text` begins with the head of an HTTP/1 request, which ends in it. */
export function overriddenText(text: string, authority: string): string {
  const end = text.indexOf('\r\n\r\n');
  const [request = '', ...lines] = text.slice(0, end).split('\r\n');
  const target = request
    .replace(/^CONNECT \S+/, `CONNECT ${authority}`)
    .replace(/^(\S+ [A-Za-z][A-Za-z0-9+.-]*:\/\/)[^/?# ]*/, `$1${authority}`);
  const kept = lines.filter((line) => !overriddenLine.test(line));
  return [target, `host: ${authority}`, ...kept].join('\r\n') + text.slice(end);
}
