// SPDX-License-Identifier: Apache-2.0
// Limits of the HTTP/2 codec. What HTTP/1 takes must fit, since it travels over HTTP/2 between agents.

import { HEAD_BYTES_MAX, HEAD_FIELDS_MAX } from '#lib/http/limits.ts';

/** Fields of one header list besides the pseudo-header fields; one more for `l5d-orig-proto`. */
export const LIST_FIELDS_MAX = HEAD_FIELDS_MAX + 1;
/** A header list by the count of RFC 9113 6.5.2 (names, values and 32 for each field). */
export const LIST_BYTES_MAX = HEAD_BYTES_MAX + 32 * (LIST_FIELDS_MAX + 4);
/** A header block as it comes, compressed. Beyond it the connection ends: its compression state is lost. */
export const BLOCK_BYTES_MAX = LIST_BYTES_MAX;
/**
 * CONTINUATION frames of one block, empty ones too. A block at its limit in frames of the smallest usual size needs 8.
 */
export const CONTINUATIONS_MAX = 32;
/** What we offer as SETTINGS_HEADER_TABLE_SIZE, and the most that we use of what a peer offers. */
export const TABLE_BYTES_MAX = 4096;

/** What a peer may run into, as metrics name it. */
export type Http2Limit =
  | 'flood_data'
  | 'flood_headers'
  | 'flood_priority'
  | 'flood_rst_stream'
  | 'flood_settings'
  | 'flood_ping'
  | 'flood_window_update'
  | 'flood_other'
  | 'header_block'
  | 'header_list'
  | 'stalled'
  | 'streams'
  | 'unread';
