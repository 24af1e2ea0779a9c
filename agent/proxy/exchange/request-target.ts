// SPDX-License-Identifier: Apache-2.0
// What the head of an HTTP/1 request says of where it goes, or that it says nothing.

import {
  FAILURE_BAD_REQUEST,
  FAILURE_HEAD_TOO_LARGE,
  FAILURE_HTTP_VERSION,
  FAILURE_URI_TOO_LONG,
} from '../failure.ts';
import { methodNames } from '#lib/http/methods.ts';
import {
  BAD_MESSAGE,
  BAD_VERSION,
  FORM_ABSOLUTE,
  FORM_AUTHORITY,
  type Head,
  TARGET_TOO_LONG,
} from '../http1/head.ts';

const QUESTION_MARK = 63;
const NUMBER_SIGN = 35;

/** How a request is answered whose head, or body, got that verdict of the parser. */
export function failureOf(verdict: number): number {
  if (verdict === TARGET_TOO_LONG) return FAILURE_URI_TOO_LONG;
  if (verdict === BAD_VERSION) return FAILURE_HTTP_VERSION;
  return verdict === BAD_MESSAGE ? FAILURE_BAD_REQUEST : FAILURE_HEAD_TOO_LARGE;
}

/** Whether a client ran into a limit with such a failure. */
export function isLimit(failure: number): boolean {
  return failure === FAILURE_URI_TOO_LONG || failure === FAILURE_HEAD_TOO_LARGE;
}

export function methodOf(buffer: Buffer, head: Head): string {
  return methodNames[head.method] || buffer.toString('latin1', head.start, head.methodEnd);
}

/** What routes and policies look at: neither query nor fragment. */
export function pathOf(buffer: Buffer, head: Head): string {
  if (head.form === FORM_AUTHORITY) return '';
  const start = head.form === FORM_ABSOLUTE ? head.hostEnd : head.targetStart;
  let end = start;
  while (end < head.targetEnd && buffer[end] !== QUESTION_MARK && buffer[end] !== NUMBER_SIGN) end++;
  return end === start ? '/' : buffer.toString('latin1', start, end);
}

/** The line that a request with an absolute target lacks, or ''. */
export function hostLine(buffer: Buffer, head: Head): string {
  if (head.form !== FORM_ABSOLUTE || head.hostSeen) return '';
  return `host: ${buffer.toString('latin1', head.hostStart, head.hostEnd)}\r\n`;
}

/** The key of the pool for the requests of one connection; the host seen last is kept, to make its string once. */
export class PoolKey {
  #text = '';

  /** HTTP/1.0, requests without a host and upgrades go over connections of their own, as with Linkerd: null. */
  of(buffer: Buffer, head: Head): string | null {
    const { hostStart, hostEnd } = head;
    if (head.minor === 0 || head.upgrade || hostStart === hostEnd) return null;
    const known = this.#text;
    let same = known.length === hostEnd - hostStart;
    for (let index = 0; same && index < known.length; index++) {
      same = known.charCodeAt(index) === buffer[hostStart + index];
    }
    if (!same) this.#text = buffer.toString('latin1', hostStart, hostEnd);
    return head.form === FORM_ABSOLUTE ? `absolute ${this.#text}` : this.#text;
  }
}
