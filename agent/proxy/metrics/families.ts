// SPDX-License-Identifier: Apache-2.0
// Every metric family of the data path: Linkerd's names, so that queries and dashboards made for it work, and our
// own under nodemesh_. A worker's store and the control thread's registry are made with the same table.

import type { MetricFamily } from '#lib/metrics/model.ts';
import { REFUSED_FAMILY } from '#lib/metrics/store.ts';

const LATENCY_BUCKETS_MS: readonly number[] = [1, 10, 100, 1000, 10_000].flatMap((decade) =>
  [1, 2, 3, 4, 5].map((step) => step * decade),
);

const counter = (name: string, help: string): MetricFamily => ({ name, type: 'counter', help });
const gauge = (name: string, help: string): MetricFamily => ({ name, type: 'gauge', help });
const histogram = (name: string, help: string, buckets: readonly number[]): MetricFamily => ({
  name,
  type: 'histogram',
  help,
  buckets,
});

export const proxyFamilies: readonly MetricFamily[] = [
  counter('request_total', 'Total count of HTTP requests.'),
  counter('response_total', 'Total count of HTTP responses.'),
  histogram(
    'response_latency_ms',
    "Elapsed times between a request's dispatch and the first byte of its response body.",
    LATENCY_BUCKETS_MS,
  ),
  counter('tcp_open_total', 'Total count of opened connections.'),
  gauge('tcp_open_connections', 'Number of currently open connections.'),
  counter('tcp_read_bytes_total', 'Total count of bytes read from peers.'),
  counter('tcp_write_bytes_total', 'Total count of bytes written to peers.'),
  counter('tcp_close_total', 'Total count of closed connections.'),
  counter('inbound_http_errors_total', 'Total count of inbound HTTP errors that the proxy answered.'),
  counter('outbound_http_errors_total', 'Total count of outbound HTTP errors that the proxy answered.'),
  counter('inbound_tcp_errors_total', 'Total count of inbound TCP errors.'),
  counter('outbound_tcp_errors_total', 'Total count of outbound TCP errors.'),
  counter('inbound_http_authz_allow_total', 'Total count of inbound HTTP requests that policy allowed.'),
  counter('inbound_http_authz_deny_total', 'Total count of inbound HTTP requests that policy denied.'),
  counter('inbound_tcp_authz_allow_total', 'Total count of inbound TCP connections that policy allowed.'),
  counter('inbound_tcp_authz_deny_total', 'Total count of inbound TCP connections that policy denied.'),
  counter(
    'inbound_tcp_authz_terminate_total',
    'Total count of inbound TCP connections that were ended because policy changed.',
  ),
  counter(
    'inbound_tcp_transport_header_connections_total',
    'Total count of direct connections with a transport header.',
  ),
  counter(
    'outbound_tcp_protocol_connections_total',
    'Total count of outbound connections by what they speak, as said or detected.',
  ),
  {
    ...gauge('outbound_http_balancer_endpoints', 'Endpoints of a service by whether they get requests.'),
    // Every worker sees the same ones.
    merge: 'max',
  },
  ...(['inbound', 'outbound'] as const).flatMap((direction) => [
    counter(
      `${direction}_tcp_detect_http_results_total`,
      `Total count of ${direction} connections whose protocol was detected, by result.`,
    ),
    histogram(
      `${direction}_tcp_detect_http_duration_seconds`,
      `How long the detection of an ${direction} connection's protocol took.`,
      [0.001, 0.1],
    ),
  ]),
  {
    name: 'process_start_time_seconds',
    type: 'gauge',
    help: 'When the counters of the process or of the pod began, in seconds since the epoch.',
    merge: 'max',
  },
  counter(REFUSED_FAMILY, 'Series that are not counted because a pod or the worker has too many.'),
  counter(
    'nodemesh_http2_limits_total',
    'How often clients ran into a limit of HTTP/2, by limit: floods end the connection, others an exchange.',
  ),
  counter(
    'nodemesh_access_log_dropped_total',
    'Lines of the access log that were left out because they were read too slowly.',
  ),
  counter(
    'nodemesh_connections_refused_total',
    'Connections closed by the agent before they were served, by reason.',
  ),
];
