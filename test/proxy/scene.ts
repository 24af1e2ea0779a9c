// SPDX-License-Identifier: Apache-2.0
// What most tests of the worker need: a client pod "web" behind one worker, a server pod "api" behind another, an HTTP
// application and a TCP application in the server pod, and services that lead to them.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { createServer, type IncomingMessage, request as httpRequest, type RequestOptions } from 'node:http';
import { connect, type Socket } from 'node:net';
import type { Clock } from '#lib/core/clock.ts';
import { errnoName } from '#lib/core/errors.ts';
import type { TestAuthority } from '#lib/x509-authority/test-authority.ts';
import type { Destination, Endpoint, ServerPolicy, WorkerPod } from '../../agent/proxy/model.ts';
import {
  type Discover,
  endpoint,
  enterPrivateNetwork,
  identityOf,
  listenIn,
  makePodNamespace,
  makeTestAuthority,
  policy,
  serveIn,
  startWorker,
  type TestWorker,
  workerPod,
} from './harness.ts';

export const CLIENT = '10.77.0.1';
export const SERVER = '10.77.0.2';
/** A peer that no worker of ours plays. */
export const PEER = '10.77.0.3';
export const HTTP_PORT = 8080;
export const TCP_PORT = 9090;
/** Nothing listens there until a test does. */
export const HTTP2_PORT = 8081;

/** How long a client of the client pod may take to say what it speaks. */
export const DETECT_TIMEOUT_MS = 200;

/** Listeners on the client pod's side, one for each thing that its application dials. */
export const services = {
  http: { listener: 15001, ip: '10.96.0.1', port: 80 },
  tcp: { listener: 15002, ip: '10.96.0.2', port: 6379 },
  peer: { listener: 15003, ip: '10.96.0.3', port: 80 },
  peerTcp: { listener: 15004, ip: '10.96.0.4', port: 6379 },
  silent: { listener: 15005, ip: '10.96.0.5', port: 80 },
  empty: { listener: 15006, ip: '10.96.0.6', port: 80 },
  unknown: { listener: 15007, ip: PEER, port: 7000 },
  itself: { listener: 15008, ip: '10.96.0.8', port: 80 },
  http2: { listener: 15009, ip: '10.96.0.9', port: 80 },
  outside: { listener: 15010, ip: '10.96.0.10', port: 80 },
} as const;
export type ServiceName = keyof typeof services;

export interface Scene {
  readonly authority: TestAuthority;
  readonly client: TestWorker;
  readonly server: TestWorker;
  readonly clientPod: WorkerPod;
  readonly serverPod: WorkerPod;
  readonly home: number;
  readonly serverNs: number;
  /** Connections that the TCP application got; it answers nothing by itself. */
  readonly accepted: Socket[];
  readonly requests: { readonly url: string; readonly headers: NodeJS.Dict<string | string[]> }[];
  nextAccepted(): Promise<Socket>;
  /** Replaces what is known of a service of the client. */
  lead(name: ServiceName, endpoints: readonly Endpoint[], opaque?: boolean): void;
  setPolicy(changes: Partial<ServerPolicy>, pod?: Partial<WorkerPod>): void;
  close(): Promise<void>;
}

export async function createScene(
  options: {
    readonly sameNode?: 'memory' | 'carrier';
    readonly failfastMs?: number;
    readonly http2?: boolean;
    readonly discover?: Discover;
    readonly clock?: Clock;
  } = {},
): Promise<Scene> {
  const home = enterPrivateNetwork([CLIENT, SERVER, PEER]);
  const serverNs = makePodNamespace(home, [SERVER, PEER]);
  const authority = await makeTestAuthority();
  const client = await startWorker({ authority, accounts: ['web', 'api'], ...options });
  // On the same node there is one worker, which has both pods.
  const server =
    options.sameNode !== undefined
      ? client
      : await startWorker({
          authority,
          accounts: ['api'],
          ...(options.clock === undefined ? {} : { clock: options.clock }),
        });
  for (const { listener, ip, port } of Object.values(services)) {
    client.kernel.outbound.set(`${CLIENT}:${listener}`, { ip, port });
  }
  const clientPod = workerPod('web', [CLIENT], home, { detectTimeoutOutboundMs: DETECT_TIMEOUT_MS });
  client.worker.handle({
    type: 'pod',
    pod: clientPod,
    listeners: Object.values(services).map(({ listener }, slot) => ({
      direction: 'outbound',
      family: 4,
      slot,
      fd: listenIn(home, CLIENT, listener),
    })),
  });
  const serverPod = workerPod('api', [SERVER], serverNs);
  server.worker.handle({
    type: 'pod',
    pod: serverPod,
    listeners: [4143, 4190, 4191, HTTP_PORT, HTTP2_PORT, TCP_PORT, 1234].map((port, slot) => ({
      direction: 'inbound',
      family: 4,
      slot,
      fd: listenIn(home, SERVER, port),
    })),
  });

  const requests: Scene['requests'] = [];
  const http = createServer((request, response) => {
    requests.push({ url: request.url ?? '', headers: request.headers });
    request.resume();
    response.end(`${request.method} ${request.url}`);
  });
  http.listen({ fd: listenIn(serverNs, SERVER, HTTP_PORT) });
  await once(http, 'listening');
  const accepted: Socket[] = [];
  const waiting: ((socket: Socket) => void)[] = [];
  const tcp = await serveIn(serverNs, SERVER, TCP_PORT, (socket) => {
    socket.on('error', () => socket.destroy());
    const next = waiting.shift();
    if (next === undefined) accepted.push(socket);
    else next(socket);
  });

  const lead: Scene['lead'] = (name, endpoints, opaque = false) => {
    const { ip, port } = services[name];
    const destination: Destination = {
      kind: 'service',
      authority: `${name}.shop.svc.cluster.local:${port}`,
      opaque,
      resolved: true,
      endpoints,
    };
    client.setDestination(`${ip}:${port}`, destination);
  };
  const meshed = {
    identity: identityOf('api'),
    inboundPort: 4143,
    http2: options.http2 ?? true,
    localPodUid: options.sameNode !== undefined ? serverPod.uid : undefined,
  };
  lead('http', [endpoint(SERVER, HTTP_PORT, { ...meshed, labels: { service: 'api', deployment: 'api' } })]);
  lead('http2', [endpoint(SERVER, HTTP2_PORT, meshed)]);
  lead('outside', [endpoint(PEER, HTTP2_PORT)]);
  lead('tcp', [endpoint(SERVER, TCP_PORT, meshed)], true);
  lead('peer', [endpoint(PEER, HTTP_PORT, meshed)]);
  lead('peerTcp', [endpoint(PEER, TCP_PORT, meshed)], true);
  lead('empty', []);

  return {
    authority,
    client,
    server,
    clientPod,
    serverPod,
    home,
    serverNs,
    accepted,
    requests,
    lead,
    async nextAccepted() {
      const socket = accepted.shift();
      return socket ?? new Promise<Socket>((resolve) => waiting.push(resolve));
    },
    setPolicy(changes, pod = {}) {
      server.worker.handle({
        type: 'pod',
        pod: { ...serverPod, policies: { byPort: [], fallback: policy(changes) }, ...pod },
        listeners: [],
      });
    },
    async close() {
      for (const socket of accepted) socket.destroy();
      await Promise.all([...new Set([client, server])].map(({ worker }) => worker.close()));
      http.close();
      http.closeAllConnections();
      tcp.close();
      assert.equal(client.kernel.open.size + server.kernel.open.size, 0, 'no spare socket is left');
    },
  };
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly headers: NodeJS.Dict<string | string[]>;
}

/** One request over a connection of its own. */
export async function ask(
  where: Omit<RequestOptions, 'headers'> & { readonly headers?: Readonly<Record<string, string>> },
): Promise<Answer> {
  const request = httpRequest({ agent: false, ...where, headers: { host: 'api', ...where.headers } });
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode ?? 0, text, headers: response.headers };
}

/** A request of the client pod's application. */
export async function get(name: ServiceName, path: string): Promise<Answer> {
  return ask({ host: CLIENT, port: services[name].listener, path });
}

/** A connection of the client pod's application. */
export async function dial(name: ServiceName): Promise<Socket> {
  return dialAt(CLIENT, services[name].listener);
}

export async function dialAt(host: string, port: number, localAddress?: string): Promise<Socket> {
  const from = localAddress === undefined ? {} : { localAddress };
  const socket = connect({ host, port, ...from, allowHalfOpen: true });
  await once(socket, 'connect');
  return socket;
}

/** Everything until the peer's FIN; an error (a reset) is an answer too. The socket's own side stays open. */
export async function readAll(socket: Socket): Promise<string> {
  let text = '';
  // An end without bytes before it is told to whoever listens at that moment.
  if (socket.readableEnded) return text;
  return new Promise((resolve) => {
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
    });
    socket.once('end', () => resolve(text));
    socket.once('error', (error) => resolve(`${text}!${errnoName(error)}`));
  });
}

/** The next bytes. */
export async function readSome(socket: Socket): Promise<string> {
  const [chunk] = (await once(socket, 'data')) as [Buffer];
  return chunk.toString('latin1');
}
