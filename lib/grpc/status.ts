// SPDX-License-Identifier: Apache-2.0
// How calls end: a status code, a message that says what and who, and fields for clients that do not read texts.

import { status } from '@grpc/grpc-js';

export { status };

export type Metadata = Readonly<Record<string, string>>;

export class CallError extends Error {
  override readonly name = 'CallError';
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;

  constructor(code: status, details: string, metadata: Metadata = {}) {
    super(details);
    this.code = code;
    this.details = details;
    this.metadata = metadata;
  }
}

/** Of `grpc-message`: some texts repeat what a client sent. */
const MESSAGE_BYTES_MAX = 2_048;
const PERCENT = 37;

/** A text as `grpc-message` carries it: percent-encoded, and cut where it gets too long. */
export function statusMessage(text: string): string {
  if (text.length <= MESSAGE_BYTES_MAX && /^[ -$&-~]*$/.test(text)) return text.trim();
  let encoded = '';
  for (const byte of Buffer.from(text.slice(0, MESSAGE_BYTES_MAX).toWellFormed().trim())) {
    encoded +=
      byte >= 32 && byte < 127 && byte !== PERCENT
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return encoded;
}

const unitsMs: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1_000,
  m: 1,
  u: 1e-3,
  n: 1e-6,
};

/** Milliseconds of a `grpc-timeout`; undefined if it is none. */
export function timeoutMs(value: string): number | undefined {
  const parts = /^(\d{1,8})([HMSmun])$/.exec(value);
  return parts === null ? undefined : Number(parts[1]) * (unitsMs[parts[2] ?? ''] ?? 0);
}
