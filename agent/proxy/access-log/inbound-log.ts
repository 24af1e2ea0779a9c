// SPDX-License-Identifier: Apache-2.0
// The access log of what one client asks of a pod.

import { countOnce, type WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { ConnectionLog, type ConnectionLogOptions } from './connection-log.ts';

/** `client` is read when a line is written. */
export function inboundLog(
  context: WorkerContext,
  pod: PodState,
  client: ConnectionLogOptions['client'],
  clientId: string,
): ConnectionLog {
  return new ConnectionLog({
    log: context.accessLog,
    pod: pod.pod,
    format: () => pod.pod.accessLog ?? '',
    client,
    clientId,
    dropped: () => countOnce(context, 'nodemesh_access_log_dropped_total', '', pod),
  });
}
