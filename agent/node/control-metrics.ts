// SPDX-License-Identifier: Apache-2.0
// Linkerd's families of the proxy's own clients (control_…): calls to identity and destination, counted as HTTP requests
// with gRPC's statuses. They are the node's, not a pod's.

import type { Interceptor } from '@grpc/grpc-js';
import type { Clock } from '#lib/core/clock.ts';
import { countCalls } from '#lib/grpc/count-calls.ts';
import { grpcFailures } from '#lib/metrics/grpc-failures.ts';
import { LATENCY_BUCKETS_MS } from '#lib/metrics/latency-buckets.ts';
import { joinLabels, type MetricFamily, renderLabels } from '#lib/metrics/model.ts';
import type { MetricRegistry } from '#lib/metrics/registry.ts';
import { MetricStore } from '#lib/metrics/store.ts';

export const controlFamilies: readonly MetricFamily[] = [
  { name: 'control_request_total', type: 'counter', help: 'Calls of the agent to the control plane.' },
  { name: 'control_response_total', type: 'counter', help: 'How calls to the control plane ended.' },
  {
    name: 'control_response_latency_ms',
    type: 'histogram',
    help: 'From a call to the control plane to the first message of its answer.',
    buckets: LATENCY_BUCKETS_MS,
  },
];

/** Among the threads that count; workers are numbered from 0. */
const CONTROL_THREAD = -1;

export interface ControlMetrics {
  /** For the client of a server that is reached at `address` and proves `identity`. */
  interceptor(address: string, identity: string): Interceptor;
}

/** The registry has `controlFamilies`. */
export function createControlMetrics(
  registry: Pick<MetricRegistry, 'define'>,
  nodeName: string,
  clock: Clock,
): ControlMetrics {
  const store = new MetricStore({
    id: 'control',
    families: controlFamilies,
    send: (definition) => registry.define(CONTROL_THREAD, definition),
    clock,
  });
  return {
    interceptor(address, identity) {
      const client = renderLabels({ addr: address, tls: 'true', server_id: identity });
      const node = renderLabels({ node: nodeName });
      // Few and for ever: nothing is released.
      const cell = (family: string, own: string) =>
        store.cell(family, [client, own, node].reduce(joinLabels), '');
      return countCalls(() => {
        const begunMs = clock.nowMs();
        let answered = false;
        cell('control_request_total', '').add(1);
        return {
          answered() {
            if (answered) return;
            answered = true;
            cell('control_response_latency_ms', 'status_code="200"').observe(clock.nowMs() - begunMs);
          },
          ended(code, reached) {
            const classification = grpcFailures.has(code) ? 'failure' : 'success';
            cell(
              'control_response_total',
              reached
                ? `status_code="200",classification="${classification}",grpc_status="${code}"`
                : 'classification="failure",error="unclassified"',
            ).add(1);
          },
        };
      });
    },
  };
}
