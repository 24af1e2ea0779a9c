// SPDX-License-Identifier: Apache-2.0
// How the body of an HTTP/1 response travels on to an HTTP/1 client.

import type { BodyDecoder } from '../http1/body.ts';
import type { Head } from '../http1/head.ts';

export const FRAMED_AS_IT_CAME = 0;
/** The end of the client's connection is its end. */
export const FRAMED_BY_CLOSE = 1;
/** The endpoint tells no length; the client gets chunks, so that a cut is seen. */
export const FRAMED_IN_CHUNKS = 2;

/** Starts the body's decoder; `minor`: the client's version. */
export function frameResponse(body: BodyDecoder, head: Head, minor: number, bodiless: boolean): number {
  if (bodiless) {
    body.startNone();
    head.dropTransferEncoding();
    if (head.status === 204) head.dropContentLength();
    return FRAMED_AS_IT_CAME;
  }
  if (head.chunked) {
    body.startChunked(minor === 0);
    if (minor > 0) return FRAMED_AS_IT_CAME;
    head.dropTransferEncoding();
    return FRAMED_BY_CLOSE;
  }
  if (head.contentLength >= 0) {
    body.startLength(head.contentLength);
    return FRAMED_AS_IT_CAME;
  }
  body.startUntilClose();
  return minor === 0 ? FRAMED_BY_CLOSE : FRAMED_IN_CHUNKS;
}
