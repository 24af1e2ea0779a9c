// SPDX-License-Identifier: Apache-2.0
// Reads until a connection's protocol is known, counts what it was and how long that took. What was read is handed on.

import type { TcpSource } from '../exchange/byte-source.ts';
import { collectBytes } from '../detect/collect.ts';
import { detectProtocol, judgeProtocol, type Protocol } from '../detect/protocol.ts';
import { countOnce, observeOnce, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';

/** More than any request line that is served. */
const FIRST_READ_BYTES_MAX = 131_072;

export interface DetectHttp {
  readonly direction: 'inbound' | 'outbound';
  /** What was read already. */
  readonly first: Buffer | null;
  readonly timeoutMs: number;
}

/** `done` is not called if the connection is gone. A client that says nothing in time, or ends, is opaque. */
export function detectHttp(
  context: WorkerContext,
  pod: PodState,
  source: TcpSource,
  { direction, first, timeoutMs }: DetectHttp,
  done: (protocol: Protocol, bytes: Buffer) => void,
): void {
  const { clock } = context;
  const begunMs = clock.nowMs();
  const options = {
    bytesMax: FIRST_READ_BYTES_MAX,
    timeoutMs,
    clock,
    decide: (bytes: Buffer) => judgeProtocol(bytes) !== 'partial',
  };
  collectBytes(source, first, options, (outcome, bytes) => {
    const protocol = detectProtocol(bytes, outcome === 'full');
    const result =
      outcome === 'closed' ? 'error' : outcome === 'timeout' ? 'read_timeout' : results[protocol];
    countOnce(context, `${direction}_tcp_detect_http_results_total`, `result="${result}"`, pod);
    const seconds = (clock.nowMs() - begunMs) / 1000;
    observeOnce(context, `${direction}_tcp_detect_http_duration_seconds`, '', pod, seconds);
    if (outcome !== 'closed') done(protocol, bytes);
  });
}

const results = { http1: 'http/1', http2: 'http/2', opaque: 'not_http' } as const;
