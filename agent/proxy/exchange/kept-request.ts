// SPDX-License-Identifier: Apache-2.0
// A request of an HTTP/1 client that may be sent several times: its head as it came, its body without framing.

import type { Head } from '../http1/head.ts';
import { KEPT_BODY_BYTES_MAX, KeptBody } from './kept-body.ts';
import { sendChunk } from './outbox.ts';
import { hostLine } from './request-target.ts';
import type { UpstreamConnection } from './upstream-connection.ts';

/** Whether a request may be kept, as far as its head tells. */
export function isShort(head: Head): boolean {
  return !head.upgrade && head.contentLength <= KEPT_BODY_BYTES_MAX;
}

export class KeptRequest {
  head = '';
  readonly body = new KeptBody();
  /** The chunks of the body are made here. */
  readonly rechunks: boolean;
  #text = '';

  constructor(rechunks: boolean) {
    this.rechunks = rechunks;
  }

  /** The head, parsed from `bytes` up to `bodyStart`, as an HTTP/1 endpoint gets it. */
  write(head: Head, bytes: Buffer, bodyStart: number, added: string): void {
    const lines = `${added}${hostLine(bytes, head)}`;
    const start = head.compact(bytes, false);
    this.#text = `${bytes.toString('latin1', start, bodyStart - 2)}${lines}\r\n`;
  }

  /** What came so far. */
  send(upstream: UpstreamConnection): void {
    upstream.sendRequest(this.#text);
    const { body } = this;
    const { out } = upstream;
    if (body.length > 0) {
      if (this.rechunks) sendChunk(out, body.bytes, 0, body.length);
      else out.bytes(body.bytes, 0, body.length);
    }
    body.passedOn();
  }
}
