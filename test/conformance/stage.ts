// SPDX-License-Identifier: Apache-2.0
// Where the scenarios of Linkerd's proxy are played: a client pod and a server pod behind workers (test/proxy/scene.ts)
// with applications that send and see exactly the bytes they are told. A scenario runs over one way or several:
//
//   out   client pod ─▶ its agent ─▶ an unmeshed server
//   in    an unmeshed client ─▶ the server pod's agent ─▶ application
//   both  client pod ─▶ its agent ═ mTLS, HTTP/1.1 carried in HTTP/2 ═▶ the server pod's agent ─▶ application
//   both1 the same, HTTP/1.1 inside mTLS
//
// On one node (NODEMESH_TEST_SAME_NODE) one agent has both pods, and "both" goes over a carrier or in memory.

import { test as nodeTest } from 'node:test';
import { listen } from '#lib/net/native.ts';
import { RawPeer, RawServer, rawClient } from '../../agent/proxy/exchange/raw-peers.ts';
import type { Destination, Endpoint, ServerPolicy, WorkerPod } from '../../agent/proxy/model.ts';
import {
  encodeTransportHeader,
  type SessionProtocol,
  TRANSPORT_ALPN,
} from '../../agent/proxy/tls/transport-header.ts';
import { endpoint, identityOf, listenIn, policy } from '../proxy/harness.ts';
import { dialAsPeer } from '../proxy/peers.ts';
import { CLIENT, createScene, PEER, type Scene, SERVER } from '../proxy/scene.ts';

/** Whoever waits for what never comes shall not hold up the others for ever; the machine may be slow. */
const SCENARIO_MS = 120_000;

/** test/conformance/same-node.test.ts plays everything again with both pods on one node. */
const asked = process.env['NODEMESH_TEST_SAME_NODE'];
const sameNode = asked === 'memory' || asked === 'carrier' ? asked : undefined;

export function test(name: string, run: () => Promise<void> | void): void {
  void nodeTest(name, { timeout: SCENARIO_MS }, run);
}

export type Way = 'out' | 'in' | 'both' | 'both1';
/** The ways of what ends at an application behind an agent of ours. */
export const meshedWays = ['in', 'both', 'both1'] as const;
export const everyWay = ['out', ...meshedWays] as const;

export const APP_PORT = 7070;
/** The application speaks first here: an opaque port. */
export const OPAQUE_PORT = 7071;
/** Nobody listens here at first. */
export const LATE_PORT = 7072;
/** Somebody listens here and accepts nobody: connects time out once two have come. */
export const FULL_PORT = 7073;

const listeners = {
  out: { listener: 15101, ip: '10.96.1.1', port: 80 },
  both: { listener: 15102, ip: '10.96.1.2', port: 80 },
  both1: { listener: 15103, ip: '10.96.1.3', port: 80 },
  outOpaque: { listener: 15104, ip: '10.96.1.4', port: 25 },
  bothOpaque: { listener: 15105, ip: '10.96.1.5', port: 25 },
  late: { listener: 15106, ip: '10.96.1.6', port: 80 },
  /** Leads where a test says. */
  other: { listener: 15107, ip: '10.96.1.7', port: 80 },
} as const;
export type Listener = keyof typeof listeners;

export interface Stage {
  readonly scene: Scene;
  /** The applications: of the server pod, and the unmeshed one. */
  readonly app: RawServer;
  readonly peer: RawServer;
  readonly opaqueApp: RawServer;
  readonly opaquePeer: RawServer;
  appOf(way: Way): RawServer;
  /** A connection of the client on this way. */
  client(way: Way): Promise<RawPeer>;
  /** An unmeshed one to the opaque port of the server pod. */
  opaqueClient(): Promise<RawPeer>;
  /** A connection of the client pod to what stands behind a listener. */
  dial(listener: Listener): Promise<RawPeer>;
  /** A meshed client's connection to a port of the server pod, or another identity's; past the transport header. */
  meshed(port: number, protocol: SessionProtocol, identity?: string): Promise<RawPeer>;
  /** Sends one request on a connection of its own; `@` in it becomes a host that nobody else uses. */
  exchange(way: Way, request: string): Promise<Exchanged>;
  /** Where the client pod's applications find a listener. */
  address(listener: Listener): { readonly host: string; readonly port: number };
  /** What is known of the destination behind a listener. */
  lead(listener: Listener, destination: Destination): void;
  /** `name.shop.svc.cluster.local:80` with these endpoints. */
  service(name: string, endpoints: readonly Endpoint[], opaque?: boolean): Destination;
  /** What an earlier scenario left is nobody's. */
  fresh(): void;
  setPod(changes: Partial<WorkerPod>, server?: Partial<ServerPolicy>): void;
  setClient(changes: Partial<WorkerPod>): void;
  close(): Promise<void>;
}

export interface Exchanged {
  readonly client: RawPeer;
  readonly server: RawPeer;
  /** What the application got: the request's head. */
  readonly head: string;
  readonly host: string;
}

export const meshedEndpoint = (port: number, changes: Partial<Endpoint> = {}): Endpoint =>
  endpoint(SERVER, port, {
    identity: identityOf('api'),
    inboundPort: 4143,
    http2: true,
    ...(sameNode === undefined ? {} : { localPodUid: 'uid-api' }),
    ...changes,
  });

export async function createStage(options: Parameters<typeof createScene>[0] = {}): Promise<Stage> {
  const scene = await createScene({
    failfastMs: 300,
    ...(sameNode === undefined ? {} : { sameNode }),
    ...options,
  });
  const { home, serverNs, client, server, serverPod } = scene;
  let clientPod = scene.clientPod;
  listen(listenIn(serverNs, SERVER, FULL_PORT), 0);
  const app = await RawServer.listen(listenIn(serverNs, SERVER, APP_PORT));
  const opaqueApp = await RawServer.listen(listenIn(serverNs, SERVER, OPAQUE_PORT));
  const peer = await RawServer.listen(listenIn(home, PEER, APP_PORT));
  const opaquePeer = await RawServer.listen(listenIn(home, PEER, OPAQUE_PORT));
  for (const { listener, ip, port } of Object.values(listeners)) {
    client.kernel.outbound.set(`${CLIENT}:${listener}`, { ip, port });
  }
  client.worker.handle({
    type: 'pod',
    pod: clientPod,
    listeners: Object.values(listeners).map(({ listener }, slot) => ({
      direction: 'outbound',
      family: 4,
      slot: slot + 100,
      fd: listenIn(home, CLIENT, listener),
    })),
  });
  const setPod: Stage['setPod'] = (changes, changed = {}) =>
    server.worker.handle({
      type: 'pod',
      pod: {
        ...serverPod,
        opaquePorts: [{ first: OPAQUE_PORT, last: OPAQUE_PORT }],
        policies: { byPort: [], fallback: policy(changed) },
        ...changes,
      },
      listeners: [],
    });
  server.worker.handle({
    type: 'pod',
    pod: serverPod,
    listeners: [APP_PORT, OPAQUE_PORT, LATE_PORT, FULL_PORT].map((port, slot) => ({
      direction: 'inbound',
      family: 4,
      slot: slot + 100,
      fd: listenIn(home, SERVER, port),
    })),
  });
  setPod({});
  const lead: Stage['lead'] = (name, destination) => {
    const { ip, port } = listeners[name];
    client.setDestination(`${ip}:${port}`, destination);
  };
  const service: Stage['service'] = (name, endpoints, opaque = false) => ({
    kind: 'service',
    authority: `${name}.shop.svc.cluster.local:80`,
    opaque,
    resolved: true,
    endpoints,
  });
  lead('out', service('out', [endpoint(PEER, APP_PORT)]));
  lead('both', service('both', [meshedEndpoint(APP_PORT)]));
  lead('both1', service('both1', [meshedEndpoint(APP_PORT, { http2: false })]));
  lead('outOpaque', service('out-opaque', [endpoint(PEER, OPAQUE_PORT)], true));
  lead('bothOpaque', service('both-opaque', [meshedEndpoint(OPAQUE_PORT)], true));
  lead('late', service('late', [meshedEndpoint(LATE_PORT)]));

  const peers: RawPeer[] = [];
  const opened = async (port: number, host: string): Promise<RawPeer> => {
    const made = await rawClient(port, host);
    peers.push(made);
    return made;
  };
  let hosts = 0;
  const stage: Stage = {
    scene,
    app,
    peer,
    opaqueApp,
    opaquePeer,
    appOf: (way) => (way === 'out' ? peer : app),
    client: async (way) =>
      way === 'in' ? opened(APP_PORT, SERVER) : opened(listeners[way].listener, CLIENT),
    opaqueClient: async () => opened(OPAQUE_PORT, SERVER),
    dial: async (name) => opened(listeners[name].listener, CLIENT),
    async meshed(port, protocol, identity = identityOf('web')) {
      const { authority } = scene;
      const socket = await dialAsPeer({
        anchorsPem: authority.anchorPem,
        shown: { authority, identity },
        alpn: [TRANSPORT_ALPN],
      });
      // Whoever takes the socket over must not meet this write.
      await new Promise<void>((resolve, reject) => {
        socket.write(encodeTransportHeader(port, protocol), (error) =>
          error == null ? resolve() : reject(error),
        );
      });
      const made = new RawPeer(socket);
      peers.push(made);
      return made;
    },
    async exchange(way, request) {
      const host = `host-${++hosts}.test`;
      const from = await stage.client(way);
      from.write(request.replaceAll('@', host));
      const to = await stage.appOf(way).accept();
      return { client: from, server: to, head: await to.head(), host };
    },
    address: (name) => ({ host: CLIENT, port: listeners[name].listener }),
    lead,
    service,
    fresh() {
      for (const server of [app, peer, opaqueApp, opaquePeer]) server.skip();
    },
    setPod,
    setClient(changes) {
      clientPod = { ...clientPod, ...changes };
      client.worker.handle({ type: 'pod', pod: clientPod, listeners: [] });
    },
    async close() {
      await Promise.all(peers.map((one) => one.close()));
      await scene.close();
      await Promise.all([app, peer, opaqueApp, opaquePeer].map((one) => one.close()));
    },
  };
  return stage;
}

/** Lower-case names with their values, of a head's field lines. */
export function fieldsOf(head: string): ReadonlyMap<string, string> {
  const lines = head
    .split('\r\n')
    .slice(1)
    .filter((line) => line !== '');
  return new Map(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
    }),
  );
}

export const statusOf = (head: string): number => Number(head.split(' ')[1]);
