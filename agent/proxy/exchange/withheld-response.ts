// SPDX-License-Identifier: Apache-2.0
// The beginning of an HTTP/2 response that its client does not see yet, because a status in its trailers may make
// another attempt of it: the head, and the first part of the body if trailers could come right after it.

import { HeaderList } from '#lib/http2/hpack/header-list.ts';

export class WithheldResponse {
  readonly head = new HeaderList();
  part: Buffer | null = null;

  constructor(head: HeaderList) {
    this.head.copyFrom(head);
  }

  /** Whether a part of the body was kept; of a second one nothing is. */
  keep(buffer: Buffer, start: number, end: number): boolean {
    if (this.part !== null) return false;
    this.part = Buffer.from(buffer.subarray(start, end));
    return true;
  }
}
