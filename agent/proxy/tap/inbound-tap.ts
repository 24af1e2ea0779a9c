// SPDX-License-Identifier: Apache-2.0
// Who listens to what one client asks of a pod.

import type { WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import type { InboundClient, InboundServer } from '../policy/client.ts';
import { ConnectionTap } from './connection-tap.ts';

/** `client` is read when there is something to tell. */
export function inboundTap(
  context: WorkerContext,
  pod: PodState,
  server: InboundServer,
  client: InboundClient,
): ConnectionTap {
  return new ConnectionTap({
    direction: 'inbound',
    taps: pod.taps,
    source: () => {
      const { ip, port, tls } = client;
      if (tls.kind !== 'meshed') return { ip, port, tls: tls.kind === 'anonymous' ? 'mtls' : 'plain' };
      return { ip, port, tls: tls.sameNode ? 'carrier' : 'mtls', identity: tls.identity };
    },
    target: server,
    clock: context.clock,
    random: context.random,
    nextId: context.nextTapId,
  });
}
