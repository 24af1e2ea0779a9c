// SPDX-License-Identifier: Apache-2.0
// Two workers, a client pod behind one and server pods behind the other, over the mesh's wire.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { createServer as createHttpServer, request as httpRequest, type IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { TestAuthority } from '#lib/x509-authority/test-authority.ts';
import type { WorkerPod } from '../../agent/proxy/model.ts';
import {
  endpoint,
  enterPrivateNetwork,
  identityOf,
  listenIn,
  makePodNamespace,
  makeTestAuthority,
  serveIn,
  startWorker,
  type TestWorker,
  untilMetric,
  workerPod,
} from './harness.ts';

const CLIENT = '10.77.0.1';
const SERVER = '10.77.0.2';
const home = enterPrivateNetwork([CLIENT, SERVER]);
const serverNs = makePodNamespace(home, [SERVER]);

/** Outbound listeners of the client pod: port -> original destination. */
const HTTP_VIP = { listener: 15001, ip: '10.96.0.1', port: 80 };
const TCP_VIP = { listener: 15002, ip: '10.96.0.2', port: 6379 };

describe('a client and a server pod on different nodes', () => {
  let authority: TestAuthority;
  let client: TestWorker;
  let server: TestWorker;
  let serverPod: WorkerPod;
  const tcpConnections: Socket[] = [];
  let closeApplications = (): void => undefined;

  before(async () => {
    authority = await makeTestAuthority();
    client = await startWorker({ authority, accounts: ['web'] });
    server = await startWorker({ authority, accounts: ['api'] });
    for (const { listener, ip, port } of [HTTP_VIP, TCP_VIP]) {
      client.kernel.outbound.set(`${CLIENT}:${listener}`, { ip, port });
    }
    client.worker.handle({
      type: 'pod',
      pod: workerPod('web', [CLIENT], home),
      listeners: [HTTP_VIP, TCP_VIP].map(({ listener }, slot) => ({
        direction: 'outbound',
        family: 4,
        slot,
        fd: listenIn(home, CLIENT, listener),
      })),
    });
    serverPod = workerPod('api', [SERVER], serverNs);
    server.worker.handle({
      type: 'pod',
      pod: serverPod,
      listeners: [4143, 4190, 4191, 8080, 9090].map((port, slot) => ({
        direction: 'inbound',
        family: 4,
        slot,
        fd: listenIn(home, SERVER, port),
      })),
    });
    const meshed = { identity: identityOf('api'), inboundPort: 4143 };
    client.destinations.set('10.96.0.1:80', {
      kind: 'service',
      authority: 'api.shop.svc.cluster.local:80',
      opaque: false,
      resolved: true,
      endpoints: [endpoint(SERVER, 8080, { ...meshed, labels: { service: 'api', deployment: 'api' } })],
    });
    client.destinations.set('10.96.0.2:6379', {
      kind: 'service',
      authority: 'api.shop.svc.cluster.local:6379',
      opaque: true,
      resolved: true,
      endpoints: [endpoint(SERVER, 9090, meshed)],
    });
    const http = createHttpServer((request, response) => {
      response.setHeader('x-client-id', request.headers['l5d-client-id'] ?? '');
      response.end(`${request.method} ${request.url}`);
    });
    http.listen({ fd: listenIn(serverNs, SERVER, 8080) });
    await once(http, 'listening');
    const tcp = await serveIn(serverNs, SERVER, 9090, (socket) => {
      tcpConnections.push(socket);
      socket.on('error', () => socket.destroy());
      socket.pipe(socket);
    });
    closeApplications = () => {
      http.close();
      http.closeAllConnections();
      tcp.close();
      for (const socket of tcpConnections) socket.destroy();
    };
  });
  after(async () => {
    closeApplications();
    await client.worker.close();
    await server.worker.close();
    assert.equal(client.kernel.open.size + server.kernel.open.size, 0, 'no spare socket is left');
  });

  const get = async (path: string): Promise<{ status: number; text: string; clientId: string }> => {
    const request = httpRequest({ host: CLIENT, port: HTTP_VIP.listener, path, headers: { host: 'api' } });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    let text = '';
    for await (const chunk of response) text += String(chunk);
    return { status: response.statusCode ?? 0, text, clientId: String(response.headers['x-client-id']) };
  };

  test('HTTP arrives with the identity of the client', async () => {
    assert.deepEqual(await get('/hello'), { status: 200, text: 'GET /hello', clientId: identityOf('web') });
    await untilMetric(
      client,
      /request_total\{direction="outbound",authority="api\.shop\.svc\.cluster\.local:80",target_addr="10\.77\.0\.2:8080",target_ip="10\.77\.0\.2",target_port="8080",tls="true",server_id="api\.shop\.[^"]*",dst_deployment="api",dst_service="api",namespace="shop",pod="web-0",deployment="web",control_plane_ns="nodemesh",workload_ns="shop"\} 1/,
    );
    await untilMetric(
      server,
      /response_total\{direction="inbound",[^}]*client_id="web\.shop[^}]*status_code="200",classification="success"\} 1/,
    );
    await untilMetric(
      server,
      /inbound_tcp_transport_header_connections_total\{session_protocol="http\/1",target_port="8080"/,
    );
  });

  test('opaque TCP goes both ways', async () => {
    const socket = connect({ host: CLIENT, port: TCP_VIP.listener });
    socket.write('PING');
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    assert.equal(chunk.toString(), 'PING');
    socket.end();
    await once(socket, 'close');
  });
});
