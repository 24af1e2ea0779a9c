// SPDX-License-Identifier: Apache-2.0
// Families and their labels as Linkerd's proxy has them, so that queries made for it find everything: what two agents print
// after a bit of each protocol, name by name and label by label.

import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { http2At, fetch2, type Http2Application, serveHttp2 } from '../proxy/http2-peers.ts';
import { until } from '../proxy/harness.ts';
import { CLIENT, HTTP2_PORT, SERVER, services } from '../proxy/scene.ts';
import { parseMetrics } from './metrics.ts';
import { createStage, type Stage, test } from './stage.ts';

const words = (text: string): readonly string[] => text.split(' ');
const named = (what: string, labels: string): readonly string[] =>
  words(labels).map((one) => `${what}_${one}`);

const target = named('target', 'addr ip port');
const resource = 'group kind namespace name port section_name';
const parent = named('parent', resource);
const backend = named('backend', resource);
const route = named('route', 'group kind namespace name');
const server = named('srv', 'group kind name port');
const judged = [...server, ...named('route', 'group kind name'), ...named('authz', 'group kind name')];
const inboundRoute = [...named('parent', 'group kind name port'), ...named('route', 'group kind name')];

type LabelSet = readonly string[];
/** Of requests: to an endpoint, from a meshed client, from an unmeshed one. */
const endpoints: readonly LabelSet[] = [
  ['direction', 'authority', ...target, 'tls', 'server_id'],
  ['direction', ...target, 'tls', 'client_id', ...judged],
  ['direction', ...target, 'tls', 'no_tls_reason', ...judged],
];
/** Of connections: from the own application, to an endpoint, from clients, to the own application. */
const transports: readonly LabelSet[] = [
  ['direction', 'peer', ...target, 'tls', 'no_tls_reason'],
  ['direction', 'peer', 'authority', ...target, 'tls', 'server_id'],
  ['direction', 'peer', ...target, 'tls', 'client_id', ...server],
  ['direction', 'peer', ...target, 'tls', 'no_tls_reason', ...server],
  ['direction', 'peer', 'tls', 'no_tls_reason'],
];
const also = (sets: readonly LabelSet[], labels: string): readonly LabelSet[] =>
  sets.map((set) => [...set, ...words(labels)]);

function balancer(name: string, labels: LabelSet): readonly (readonly [string, readonly LabelSet[]])[] {
  return [
    [`${name}_endpoints`, [['state', ...labels]]],
    [`${name}_p2c_updates_total`, [['op', ...labels]]],
    ...words(
      'p2c_endpoints queue_length queue_requests_total queue_latency_seconds queue_gate_open_total queue_gate_shut_total queue_gate_open_time_seconds queue_gate_shut_time_seconds queue_gate_timeout_seconds',
    ).map((family) => [`${name}_${family}`, [labels]] as const),
  ];
}

const families = new Map<string, readonly LabelSet[]>([
  ['request_total', endpoints],
  [
    'response_total',
    [
      ...also(endpoints, 'status_code classification'),
      ...also(endpoints.slice(0, 2), 'status_code classification grpc_status'),
    ],
  ],
  ['response_latency_ms', also(endpoints, 'status_code')],
  ...words('tcp_open_total tcp_open_connections tcp_read_bytes_total tcp_write_bytes_total').map(
    (family) => [family, transports] as const,
  ),
  ['tcp_close_total', also(transports, 'errno')],
  ['inbound_http_errors_total', [['error', ...target, ...server]]],
  [
    'inbound_http_authz_allow_total',
    [
      [...target, 'tls', 'client_id', ...judged],
      [...target, 'tls', 'no_tls_reason', ...judged],
    ],
  ],
  [
    'inbound_tcp_authz_allow_total',
    [[...target, 'tls', 'client_id', ...server, ...named('authz', 'group kind name')]],
  ],
  [
    'inbound_tcp_transport_header_connections_total',
    [words('session_protocol target_port target_name client_id')],
  ],
  ['outbound_tcp_protocol_connections_total', [['protocol', ...parent]]],
  ...balancer('outbound_http_balancer', [...parent, ...backend]),
  ...balancer('outbound_tcp_balancer', [...parent, ...backend, 'logical', 'concrete']),
  ['outbound_tcp_route_open_total', [[...parent, ...route, 'target_ip', 'target_port']]],
  ['outbound_tcp_route_close_total', [[...parent, ...route, 'target_ip', 'target_port', 'error']]],
  ['outbound_tcp_transfer_cost_bytes_total', [['op', 'zone_locality']]],
  ['outbound_http_route_request_duration_seconds', [[...parent, ...route, 'hostname']]],
  ['outbound_http_route_request_statuses_total', [[...parent, ...route, 'hostname', 'http_status', 'error']]],
  ['outbound_http_route_request_frame_size_bytes', [[...parent, ...route, 'hostname']]],
  ...words('requests_total response_duration_seconds response_frame_size_bytes').map(
    (family) => [`outbound_http_route_backend_${family}`, [[...parent, ...route, ...backend]]] as const,
  ),
  [
    'outbound_http_route_backend_response_statuses_total',
    [[...parent, ...route, ...backend, 'http_status', 'error']],
  ],
  ...words(
    'requests_total request_duration_seconds response_duration_seconds request_frame_size_bytes response_frame_size_bytes',
  ).map((family) => [`inbound_http_${family}`, [inboundRoute]] as const),
  ['inbound_http_statuses_total', [[...inboundRoute, 'status']]],
  ...words('inbound outbound').flatMap((direction) => [
    [`${direction}_tcp_detect_http_results_total`, [['result']]] as const,
    [`${direction}_tcp_detect_http_duration_seconds`, [[]]] as const,
  ]),
  ['process_start_time_seconds', [[]]],
]);

/** Whose series it is; on every series of a pod. */
const ownLabels = new Set(words('le namespace pod deployment control_plane_ns workload_ns'));

describe('families', () => {
  let stage: Stage;
  let application: Http2Application;
  before(async () => {
    stage = await createStage();
    application = await serveHttp2(stage.scene.serverNs, SERVER, HTTP2_PORT, (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '5' }));
      stream.end('answer');
    });
  });
  after(async () => {
    application.close();
    await stage.close();
  });

  test('each family has the labels of Linkerd, in its order, and no others', async () => {
    for (const way of ['both', 'in'] as const) {
      const { client, server: app } = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 2\r\n\r\nab',
      );
      await app.take('ab');
      app.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await client.take('ok');
      await client.close();
    }
    const session = http2At(CLIENT, services.http2.listener);
    await fetch2(
      session,
      { ':path': '/a.B/C', ':method': 'POST', 'content-type': 'application/grpc' },
      'call',
    );
    session.destroy();
    const refused = await stage.dial('late');
    refused.write('GET / HTTP/1.1\r\nHost: late\r\n\r\n');
    await refused.head();
    const opaque = await stage.dial('bothOpaque');
    const app = await stage.opaqueApp.accept();
    opaque.write('bytes');
    await app.take('bytes');
    app.socket.end();
    opaque.socket.end();
    await opaque.gone();

    const seen = async (): Promise<Map<string, Set<string>>> => {
      const found = new Map<string, Set<string>>();
      for (const side of ['client', 'server'] as const) {
        for (const { name, labels } of parseMetrics(await stage.scene[side].metrics())) {
          if (name.startsWith('nodemesh_')) continue;
          const family = name.replace(/_(bucket|sum|count)$/, '');
          const keys = Object.keys(labels).filter((label) => !ownLabels.has(label));
          const sets = found.get(family) ?? new Set();
          found.set(family, sets.add(keys.join(' ')));
        }
      }
      return found;
    };
    // Connections close on their own time.
    const wantedOf = (name: string): readonly string[] =>
      (families.get(name) ?? []).map((set) => set.join(' ')).sort();
    let last = await seen();
    const complete = (): boolean =>
      [...families.keys()].every((name) => last.get(name)?.size === wantedOf(name).length);
    const look = setInterval(() => void seen().then((found) => (last = found)), 50);
    // What is missing after that is said below, by its name.
    const deadline = performance.now() + 30_000;
    await until(() => complete() || performance.now() > deadline, 'the families', 40_000);
    clearInterval(look);
    for (const name of new Set([...families.keys(), ...last.keys()])) {
      assert.deepEqual([...(last.get(name) ?? [])].sort(), wantedOf(name), name);
    }
  });
});
