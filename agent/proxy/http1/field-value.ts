// SPDX-License-Identifier: Apache-2.0
// A field of a parsed HTTP/1 head by its name, for who looks at few requests: on the way of all of them nothing looks
// for names.

import type { Head } from './head.ts';

/** The number of the first field of that name, which is in lower case; -1: there is none. */
export function findField(head: Head, buffer: Buffer, name: string): number {
  for (let field = 0; field < head.fieldCount; field++) {
    const start = head.nameStart(field);
    const end = head.nameEnd(field);
    if (end - start !== name.length) continue;
    if (buffer.toString('latin1', start, end).toLowerCase() === name) return field;
  }
  return -1;
}

/** '' if there is none. */
export function fieldValue(head: Head, buffer: Buffer, name: string): string {
  const field = findField(head, buffer, name);
  return field < 0 ? '' : head.value(buffer, field);
}
