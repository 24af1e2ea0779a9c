// SPDX-License-Identifier: Apache-2.0
// An HTTP/1 request on its way into a passage: made what the server's side passes on, with what that side's policy asks.

import type { Head } from '../http1/head.ts';
import type { Exchange } from './exchange.ts';
import { methodOf, pathOf } from './request-target.ts';
import type { LoggedRequest, Passage, RequestGate } from './types.ts';

export class Approach {
  /** Its entry in the access log of the server's side. */
  logged: LoggedRequest | null = null;
  #method = '';
  #path = '';

  /** Of a parsed head that is not closed up yet; returns the field to add. */
  note(passage: Passage, exchange: Exchange, buffer: Buffer, head: Head): string {
    this.#method = methodOf(buffer, head);
    this.#path = pathOf(buffer, head);
    this.logged = passage.log.http1(head, buffer);
    exchange.observedBehind = passage.observer.http1(head, buffer);
    head.dropProxyFields(buffer);
    return passage.clientIdField.line;
  }

  /** A head that was made ready already, with the field; null: what was changed in it made it too large. */
  withField(passage: Passage, exchange: Exchange, text: string, head: Head): string | null {
    const bytes = Buffer.from(text, 'latin1');
    const end = head.parseRequest(bytes, 0, bytes.length, false);
    if (end <= 0) return null;
    const added = this.note(passage, exchange, bytes, head);
    return `${bytes.toString('latin1', head.compact(bytes, true), end - 2)}${added}\r\n`;
  }

  judge(gate: RequestGate, upgrade: boolean): number {
    return gate.judge(this.#method, this.#path, upgrade);
  }
}
