// SPDX-License-Identifier: Apache-2.0
// What many streams are sent alike, kept once: the same bytes are the same message while they are in use.

import { type EncodedMessage, encodeMessage } from '#lib/grpc/call.ts';
import { Interned } from './interned.ts';

/** Longer ones are kept by their streams alone. */
const BYTES_MAX = 4_096;

const messages = new Interned((text) => encodeMessage(Buffer.from(text, 'latin1'), true), {
  textLengthMax: BYTES_MAX,
  entriesMax: 4_096,
});

/** Compare by content: a message whose like was forgotten is another object. */
export function sharedMessage(bytes: Uint8Array): EncodedMessage {
  if (bytes.length > BYTES_MAX) return encodeMessage(bytes, true);
  return messages.of(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1'));
}
