// SPDX-License-Identifier: Apache-2.0
// A server stream that is opened again whenever it ends, with growing pauses, until closed.

import { type ClientReadableStream, type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { createBackOff } from './back-off.ts';

/** Pauses are short again after a stream that lasted so long: a server may answer each one and end it at once. */
const LASTED_MS = 10_000;

export interface RetryingStreamOptions<T> {
  readonly open: () => ClientReadableStream<T>;
  /** A new stream answers: its headers are there, no message yet. */
  readonly onHeaders?: (headers: Metadata) => void;
  /** `first`: of this stream, so that it replaces what an earlier stream said. */
  readonly onMessage: (message: T, first: boolean) => void;
  readonly onError: (code: status, details: string) => void;
  readonly clock: Clock;
  readonly random: Random;
}

export interface RetryingStream {
  close(): void;
}

export function openRetryingStream<T>(options: RetryingStreamOptions<T>): RetryingStream {
  const backOff = createBackOff(options.random);
  let call: ClientReadableStream<T> | undefined;
  let timer: Timer | undefined;
  let closed = false;

  const open = (): void => {
    const current = options.open();
    call = current;
    let first = true;
    let ended = false;
    let answeredAtMs: number | undefined;
    const again = (code: status, details: string): void => {
      if (closed || ended) return;
      ended = true;
      if (answeredAtMs !== undefined && options.clock.nowMs() - answeredAtMs >= LASTED_MS) backOff.reset();
      options.onError(code, details);
      timer = options.clock.after(backOff.nextMs(), open);
    };
    current.on('metadata', (headers) => {
      if (closed || ended) return;
      answeredAtMs = options.clock.nowMs();
      options.onHeaders?.(headers);
    });
    current.on('data', (message: T) => {
      if (closed || ended) return;
      options.onMessage(message, first);
      first = false;
    });
    current.on('error', (error: ServiceError) => again(error.code, error.details));
    current.on('end', () => again(status.OK, 'the server ended the stream'));
  };
  open();
  return {
    close() {
      closed = true;
      timer?.cancel();
      call?.cancel();
    },
  };
}
