// SPDX-License-Identifier: Apache-2.0
// What all HTTP connections of a worker share, and what a connection is to who counts and drains them.

import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import type { Head } from '../http1/head.ts';
import type { Pool } from '../pool/pool.ts';
import type { StreamPool } from '../pool/stream-pool.ts';
import type { TimerWheel } from '../timers/wheel.ts';
import type { Flusher } from './outbox.ts';

export interface ServerContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly wheel: TimerWheel;
  readonly pool: Pool;
  readonly streams: StreamPool;
  readonly flusher: Flusher;
  /** Results hold until the next parse of the same kind. */
  readonly requestHead: Head;
  readonly responseHead: Head;
  /** Bytes of further requests that a connection may send while one is in flight, before it is no longer read. */
  readonly pipelinedBytesMax: number;
  draining: boolean;
  /** When connections are cut at the latest. */
  drainEndsMs: number;
}

/** A client's connection. */
export interface ServedConnection {
  readonly owner: object | undefined;
  /** The client shall ask no more here, if that can be said before it asks. */
  notice(): void;
  /** Ends after what is asked now, at once if nothing is; where the client has to be told before, in a later call. */
  dismiss(): void;
}
