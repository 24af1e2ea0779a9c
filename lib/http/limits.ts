// SPDX-License-Identifier: Apache-2.0
// Limits of a message's head, in HTTP/1 and HTTP/2: what the one takes must fit into the other, since HTTP/1 travels
// over HTTP/2 between agents. Exceeding one is an error of the message, never a silent cut.

/**
 * Request or status line with all fields. The longest target that Linkerd takes (65534) plus 64 KiB of fields: twice
 * what nginx, node and haproxy take by default, and little enough that a thousand half-sent heads cost 128 MiB at most.
 */
export const HEAD_BYTES_MAX = 131_072;
/** As hyper. */
export const HEAD_FIELDS_MAX = 100;
/** As the `http` crate of Linkerd. */
export const TARGET_BYTES_MAX = 65_534;
export const METHOD_BYTES_MAX = 64;
