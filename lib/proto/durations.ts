// SPDX-License-Identifier: Apache-2.0
// Milliseconds, of which there may be fractions, and the Duration of protocol buffers.

import type { Duration } from './gen/google/protobuf/duration.ts';

export const durationToMs = ({ seconds, nanos }: Duration): number => Number(seconds) * 1000 + nanos / 1e6;

export function durationOfMs(ms: number): Duration {
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: Math.round((ms - seconds * 1000) * 1e6) };
}
