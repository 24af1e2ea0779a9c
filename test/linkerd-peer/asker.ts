// SPDX-License-Identifier: Apache-2.0
// A destination with objects of a test, and a client of it that shares no code with the product.

import assert from 'node:assert/strict';
import { serverIdentity, TestCluster } from '../../destination/test-cluster.ts';
import { type RawCall, RawGrpc } from './grpc.ts';
import { encode, fixed32, type Message } from './protobuf.ts';
import { readOutboundPolicy, readProfile, readServer, readUpdate } from './read-messages.ts';

export type Json = Readonly<Record<string, unknown>>;

export const identityIn = (ns: string, account = 'default'): string =>
  `${account}.${ns}.serviceaccount.identity.linkerd.cluster.local`;

const DESTINATION = 'io.linkerd.proxy.destination.Destination';
const OUTBOUND = 'io.linkerd.proxy.outbound.OutboundPolicies';
const INBOUND = 'io.linkerd.proxy.inbound.InboundServerPolicies';

export type Reader = (message: Message) => Json;

/** A stream whose messages are read as pictures. */
export class Answers {
  readonly call: RawCall;
  readonly #read: Reader;

  constructor(call: RawCall, read: Reader) {
    this.call = call;
    this.#read = read;
  }

  async next(): Promise<Json> {
    return this.#read(await this.call.next());
  }
}

export class Asker {
  readonly cluster: TestCluster;
  readonly #grpc: RawGrpc;

  static async start(
    objects: readonly Json[],
    settings: Parameters<typeof TestCluster.start>[1] = {},
    identity = identityIn('shop', 'web'),
    alpn?: readonly string[],
  ): Promise<Asker> {
    const cluster = await TestCluster.start(objects, settings);
    return new Asker(cluster, await Asker.#connect(cluster, identity, alpn));
  }

  static async #connect(cluster: TestCluster, identity: string, alpn?: readonly string[]): Promise<RawGrpc> {
    const { anchorsPem, ...shown } = await cluster.material(identity);
    const { port } = cluster;
    const offered = alpn === undefined ? {} : { alpn };
    return RawGrpc.connect({
      host: '127.0.0.1',
      port,
      serverName: serverIdentity,
      anchorsPem,
      shown,
      ...offered,
    });
  }

  private constructor(cluster: TestCluster, grpc: RawGrpc) {
    this.cluster = cluster;
    this.#grpc = grpc;
  }

  /** Another proxy of the same cluster. */
  async as(identity: string): Promise<Asker> {
    return new Asker(this.cluster, await Asker.#connect(this.cluster, identity));
  }

  get(path: string, token = '{"ns":"shop","nodeName":"n1"}'): Answers {
    const call = this.#grpc.call(`${DESTINATION}/Get`, encode([2, path], [3, token]));
    return new Answers(call, readUpdate);
  }

  getProfile(path: string, token = '{"ns":"shop","nodeName":"n1"}'): Answers {
    const call = this.#grpc.call(`${DESTINATION}/GetProfile`, encode([2, path], [3, token]));
    return new Answers(call, readProfile);
  }

  /** A target that begins with a digit is an address, `ip/port`. */
  outbound(method: 'Get' | 'Watch', target: string, workload = '{"ns":"shop","pod":"web-1"}'): Answers {
    const [ip = '', port] = target.split('/');
    const number = ip.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
    const byAddress = /^\d/.test(target);
    const message = encode(
      [1, workload],
      byAddress
        ? [2, encode([1, fixed32(1, number)], [2, Number(port)])]
        : [3, target === '' ? undefined : target],
    );
    return new Answers(this.#grpc.call(`${OUTBOUND}/${method}`, message), readOutboundPolicy);
  }

  inbound(method: 'GetPort' | 'WatchPort', workload: string, port: number): Answers {
    const call = this.#grpc.call(`${INBOUND}/${method}`, encode([1, workload], [2, port]));
    return new Answers(call, readServer);
  }

  /** Nothing more was sent up to here, of what was caused by changes made before. */
  async quiet(answers: Answers): Promise<void> {
    await this.cluster.settled();
    await this.#grpc.settled();
    assert.equal(answers.call.pending, 0);
    assert.equal(answers.call.ended, false);
  }

  enrol(name: string, state: 'True' | 'False' = 'True', reason = 'Enrolled'): Promise<void> {
    return this.cluster.registry.reportStatus(
      { cluster: 'local', namespace: 'shop', name, uid: `uid-${name}` },
      { condition: { status: state, reason, message: '', generation: 1 } },
    );
  }

  async close(): Promise<void> {
    this.#grpc.close();
    await this.cluster.close();
  }
}

/** A pod with Linkerd's proxy in it. */
export const sidecar = (
  controlPlane = 'linkerd',
  env: Readonly<Record<string, string>> = {},
  containers: readonly Json[] = [
    { name: 'main', image: 'none', ports: [{ name: 'http', containerPort: 8080 }] },
  ],
): { metadata: Json; spec: Json } => ({
  metadata: { labels: { app: 'web', 'linkerd.io/control-plane-ns': controlPlane } },
  spec: {
    containers: [
      ...containers,
      {
        name: 'linkerd-proxy',
        image: 'none',
        env: Object.entries(env).map(([name, value]) => ({ name, value })),
      },
    ],
  },
});
