// SPDX-License-Identifier: Apache-2.0
// What many streams are sent alike, kept once: the same bytes are the same message while they are in use.

import { type EncodedMessage, encodeMessage } from '#lib/grpc/call.ts';

const MESSAGES_MAX = 4_096;
/** Longer ones are kept by their streams alone. */
const BYTES_MAX = 4_096;

const messages = new Map<string, EncodedMessage>();

/** Compare by content: a message whose like was forgotten is another object. */
export function sharedMessage(bytes: Uint8Array): EncodedMessage {
  if (bytes.length > BYTES_MAX) return encodeMessage(bytes, true);
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1');
  const known = messages.get(text);
  if (known !== undefined) return known;
  if (messages.size >= MESSAGES_MAX) messages.clear();
  const made = encodeMessage(bytes, true);
  messages.set(text, made);
  return made;
}
