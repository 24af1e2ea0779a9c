// SPDX-License-Identifier: Apache-2.0
// Limits of HTTP/1: of its codec, where exceeding one is an error of the message, never a silent cut, and of a client's
// connection. Those of heads are HTTP/2's, too: lib/http/limits.ts.

/** RFC 9112 2.2 asks to skip at least one empty line before a request line. */
export const EMPTY_LINES_MAX = 4;
/** Names in `Connection`; more than fields there can be make no sense. */
export const NOMINATIONS_MAX = 32;
/** Hexadecimal digits of a chunk's size, leading zeros included; the value stays below 2^53. */
export const CHUNK_SIZE_DIGITS_MAX = 16;
/** Chunk extensions of one message together: they are dropped, and nobody needs them (as hyper). */
export const CHUNK_EXTENSION_BYTES_MAX = 16_384;
export const TRAILER_BYTES_MAX = 16_384;
export const TRAILER_FIELDS_MAX = 100;
/** From the first byte of a request's head to its last. */
export const HEAD_MS = 60_000;
/** How long a client may take to close after our FIN, and how much it may still send. */
export const LINGER_MS = 2000;
export const LINGER_BYTES_MAX = 1_048_576;

/** What a client may run into, as metrics name it. */
export type Http1Limit =
  /** Bytes or fields of a head. */
  | 'head'
  | 'target'
  /** Extensions of chunks, trailers. */
  | 'body_framing'
  | 'head_time'
  /** It is not read on until an answer is complete. */
  | 'pipelined'
  /** What came after the last answer. */
  | 'discarded';
