// SPDX-License-Identifier: Apache-2.0
// What all HTTP/1 connections of a worker share.

import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import type { Head } from '../http1/head.ts';
import type { Pool } from '../pool/pool.ts';
import type { TimerWheel } from '../timers/wheel.ts';
import type { Flusher } from './outbox.ts';

export interface ServerContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly wheel: TimerWheel;
  readonly pool: Pool;
  readonly flusher: Flusher;
  /** Results hold until the next parse of the same kind. */
  readonly requestHead: Head;
  readonly responseHead: Head;
  /** Bytes of further requests that a connection may send while one is in flight, before it is no longer read. */
  readonly pipelinedBytesMax: number;
  draining: boolean;
}
