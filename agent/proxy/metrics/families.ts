// SPDX-License-Identifier: Apache-2.0
// Every metric family of the data path: Linkerd's names, so that queries and dashboards made for it work, and our
// own under nodemesh_. A worker's store and the control thread's registry are made with the same table.

import { LATENCY_BUCKETS_MS } from '#lib/metrics/latency-buckets.ts';
import type { MetricFamily } from '#lib/metrics/model.ts';
import { REFUSED_FAMILY } from '#lib/metrics/store.ts';

const counter = (name: string, help: string): MetricFamily => ({ name, type: 'counter', help });
const gauge = (name: string, help: string): MetricFamily => ({ name, type: 'gauge', help });
const histogram = (name: string, help: string, buckets: readonly number[]): MetricFamily => ({
  name,
  type: 'histogram',
  help,
  buckets,
});

/** More of these per client would cost more than they tell; Linkerd's choice. */
const COARSE_SECONDS: readonly number[] = [0.05, 0.5, 1, 10];
const FINE_SECONDS: readonly number[] = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 10];
const FRAME_BYTES: readonly number[] = [128, 1024, 10_240];
const QUEUE_SECONDS: readonly number[] = [0.0005, 0.005, 0.05, 0.5, 1, 3];

/** Of requests by route (outbound) and by server (inbound); `kind` is that of the route, not of the request. */
const requestFamilies = (kind: 'http' | 'grpc', name: string): readonly MetricFamily[] => {
  const route = `outbound_${kind}_route`;
  const inbound = `inbound_${kind}`;
  return [
    histogram(
      `${route}_request_duration_seconds`,
      `From a ${name} request's arrival to the end of its answer, all attempts together, by route.`,
      COARSE_SECONDS,
    ),
    counter(`${route}_request_statuses_total`, `${name} requests by route, and how they ended.`),
    histogram(
      `${route}_request_frame_size_bytes`,
      `Parts of ${name} requests' bodies, by route.`,
      FRAME_BYTES,
    ),
    counter(`${route}_retry_requests_total`, `Attempts of ${name} requests after the first, by route.`),
    counter(
      `${route}_retry_successes_total`,
      `${name} requests by route that an attempt after the first answered.`,
    ),
    counter(
      `${route}_retry_limit_exceeded_total`,
      `${name} requests by route whose last attempt would have been followed by another one.`,
    ),
    counter(
      `${route}_retry_overflow_total`,
      `${name} requests by route for whose next attempt there was no endpoint.`,
    ),
    counter(`${route}_backend_requests_total`, `Attempts of ${name} requests by route and backend.`),
    histogram(
      `${route}_backend_response_duration_seconds`,
      `From a ${name} request's end to the end of its answer, by route and backend.`,
      FINE_SECONDS,
    ),
    counter(
      `${route}_backend_response_statuses_total`,
      `How attempts of ${name} requests ended, by route and backend.`,
    ),
    histogram(
      `${route}_backend_response_frame_size_bytes`,
      `Parts of the bodies of answers to ${name} requests, by route and backend.`,
      FRAME_BYTES,
    ),
    counter(`${inbound}_requests_total`, `${name} requests by server and route.`),
    histogram(
      `${inbound}_request_duration_seconds`,
      `From a ${name} request's arrival to the end of its answer, by server and route.`,
      FINE_SECONDS,
    ),
    histogram(
      `${inbound}_response_duration_seconds`,
      `From a ${name} request's end to the end of its answer, by server and route.`,
      COARSE_SECONDS,
    ),
    counter(`${inbound}_statuses_total`, `Answers to ${name} requests by server, route and status.`),
    histogram(
      `${inbound}_request_frame_size_bytes`,
      `Parts of ${name} requests' bodies, by server and route.`,
      FRAME_BYTES,
    ),
    histogram(
      `${inbound}_response_frame_size_bytes`,
      `Parts of the bodies of answers to ${name} requests, by server and route.`,
      FRAME_BYTES,
    ),
  ];
};

/** Every worker has a balancer of its own, and all of them the same endpoints. */
const balancerFamilies = (protocol: 'http' | 'tcp', what: string): readonly MetricFamily[] => {
  const name = `outbound_${protocol}_balancer`;
  const level = (family: MetricFamily): MetricFamily => ({ ...family, merge: 'max' });
  return [
    level(gauge(`${name}_endpoints`, `Endpoints of a service by whether they get ${what}.`)),
    level(gauge(`${name}_p2c_endpoints`, `Endpoints of a service among which ${what} are balanced.`)),
    counter(`${name}_p2c_updates_total`, 'Changes of the endpoints of a service, in all workers together.'),
    gauge(`${name}_queue_length`, `How many ${what} wait for an endpoint now.`),
    counter(`${name}_queue_requests_total`, `How many ${what} came.`),
    histogram(`${name}_queue_latency_seconds`, `How long ${what} waited for an endpoint.`, QUEUE_SECONDS),
    counter(
      `${name}_queue_gate_open_total`,
      `How often ${what} were let in again because there was an endpoint.`,
    ),
    counter(
      `${name}_queue_gate_shut_total`,
      `How often ${what} began to fail at once because waiting was in vain.`,
    ),
    level(
      gauge(
        `${name}_queue_gate_open_time_seconds`,
        'When that was last, in seconds since the epoch; 0: never.',
      ),
    ),
    level(
      gauge(
        `${name}_queue_gate_shut_time_seconds`,
        'When that was last, in seconds since the epoch; 0: never.',
      ),
    ),
    level(gauge(`${name}_queue_gate_timeout_seconds`, `How long ${what} wait before that.`)),
  ];
};

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
  ...balancerFamilies('http', 'requests'),
  ...balancerFamilies('tcp', 'connections'),
  counter('outbound_tcp_route_open_total', 'Opaque connections by route.'),
  counter('outbound_tcp_route_close_total', 'Opaque connections that ended, by route; `error`: that failed.'),
  counter(
    'outbound_tcp_transfer_cost_bytes_total',
    'Bytes to and from endpoints by whether they are in the same zone.',
  ),
  ...requestFamilies('http', 'HTTP'),
  ...requestFamilies('grpc', 'gRPC'),
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
    merge: 'min',
  },
  counter(REFUSED_FAMILY, 'Series that are not counted because a pod or the worker has too many.'),
  counter(
    'nodemesh_http1_limits_total',
    'How often clients ran into a limit of HTTP/1, by limit; `pipelined`: read no further until an answer is complete.',
  ),
  counter(
    'nodemesh_http2_limits_total',
    'How often clients ran into a limit of HTTP/2, by limit: floods end the connection, others an exchange.',
  ),
  counter(
    'nodemesh_access_log_dropped_total',
    'Lines of the access log that were left out because they were read too slowly.',
  ),
  counter(
    'nodemesh_same_node_permits_total',
    'How often the network was asked whether requests may pass in memory to a pod of the same node, by result.',
  ),
  counter(
    'nodemesh_connections_handed_over_total',
    'Long connections that a worker accepted and gave to one that had fewer.',
  ),
  counter(
    'nodemesh_reads_held_total',
    'How often a connection waited because its pod had read its share of a turn of the worker.',
  ),
  counter(
    'nodemesh_handshakes_held_total',
    'How often a TLS handshake waited for a later turn of the worker, since several were to start at once or were under way.',
  ),
  counter(
    'nodemesh_connections_refused_total',
    'Connections closed by the agent before they were served, by reason.',
  ),
];
