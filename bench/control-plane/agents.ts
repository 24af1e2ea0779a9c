// SPDX-License-Identifier: Apache-2.0
// Agents as far as destination sees them: a connection each, with a node stream, Gets and GetProfiles. Notes how
// long first answers take, and when the last of those that follow an endpoint has heard of its change.

import type { ClientDuplexStream, ClientReadableStream } from '@grpc/grpc-js';
import { type Random, seededRandom } from '#lib/core/clock.ts';
import { createMeshChannel } from '#lib/grpc/client.ts';
import { socketFromWire } from '#lib/proto/addresses.ts';
import {
  DestinationClient,
  type DestinationProfile,
  type Update,
} from '#lib/proto/gen/linkerd/destination.ts';
import { type FromNode, NodeServiceClient, type ToNode } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { defaultMeshSettings, identityOf } from '#lib/registry/mesh-settings.ts';
import { authorityOf, nodeName, type Population, type ScalePod } from './population.ts';
import type { ServeReady } from './serve.ts';

export interface AgentsOptions {
  readonly population: Population;
  readonly pods: readonly ScalePod[];
  readonly server: ServeReady;
  readonly token: (index: number) => Promise<string>;
  readonly gets: number;
  readonly profiles: number;
}

interface Expected {
  readonly added: boolean;
  left: number;
  readonly done: () => void;
}

export class Agents {
  readonly firstAnswersMs: number[] = [];
  updates = 0;
  broken = 0;
  readonly #options: AgentsOptions;
  readonly #random: Random = seededRandom(7);
  readonly #closing: (() => void)[] = [];
  readonly #followers = new Map<number, number>();
  readonly #expected = new Map<string, Expected>();
  #closed = false;

  constructor(options: AgentsOptions) {
    this.#options = options;
  }

  /** Resolves when the agent has its snapshot and every first answer. */
  async open(index: number): Promise<void> {
    const { server, population, pods, gets, profiles } = this.#options;
    const token = await this.#options.token(index);
    const channel = createMeshChannel({
      serverIdentity: identityOf('linkerd-destination', 'linkerd', defaultMeshSettings),
      material: () => ({ certificate: server.agent, anchorsPem: server.anchorsPem }),
    });
    const address = `127.0.0.1:${server.port}`;
    const node = new NodeServiceClient(address, channel.credentials, channel.options);
    // One connection carries all, as an agent's does.
    const destination = new DestinationClient(address, channel.credentials, {
      ...channel.options,
      channelOverride: node.getChannel(),
    });
    this.#closing.push(() => node.close());
    await this.#nodeStream(node.connect(), index, token);

    // Only namespaces of which the node has a pod may be named.
    const namespaces = pods.filter((pod) => pod.node === nodeName(index)).map((pod) => pod.namespace);
    const contextToken = JSON.stringify({ ns: namespaces[0], nodeName: nodeName(index) });
    const own = Array.from({ length: gets }, () => Math.floor(this.#random() * population.services));
    await Promise.all([
      ...own.map((service) => {
        const path = authorityOf(service);
        return this.#follow(
          destination.get({ scheme: '', path, contextToken }),
          (update) => this.#take(update),
          service,
        );
      }),
      ...own.slice(0, profiles).map((service) => {
        const path = authorityOf(service);
        return this.#follow(destination.getProfile({ scheme: '', path, contextToken }), () => undefined);
      }),
    ]);
  }

  /** Resolves when everybody who follows the pod's service has heard of it. */
  changed(pod: ScalePod, added: boolean): Promise<void> {
    const followers = this.#followers.get(pod.service) ?? 0;
    if (followers === 0) return Promise.resolve();
    return new Promise((done) => this.#expected.set(pod.ip, { added, left: followers, done }));
  }

  close(): void {
    this.#closed = true;
    for (const close of this.#closing) close();
  }

  async #nodeStream(call: ClientDuplexStream<FromNode, ToNode>, index: number, token: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#closing.push(() => call.cancel());
    call.on('data', ({ message }: ToNode) => {
      if (message?.$case === 'snapshotEnd') resolve();
    });
    call.on('error', (error: Error) => {
      if (!this.#closed) this.broken++;
      reject(error);
    });
    const hello = {
      nodeName: nodeName(index),
      instanceId: `bench-${index}`,
      version: 'bench',
      features: ['http2'],
      token: Buffer.from(token),
      cluster: '',
    };
    call.write({ message: { $case: 'hello', hello } });
    await promise;
  }

  #follow<Answer extends Update | DestinationProfile>(
    call: ClientReadableStream<Answer>,
    take: (answer: Answer) => void,
    service?: number,
  ): Promise<void> {
    const beganMs = performance.now();
    this.#closing.push(() => call.cancel());
    return new Promise((resolve, reject) => {
      let first = true;
      call.on('data', (answer: Answer) => {
        if (first) {
          first = false;
          this.firstAnswersMs.push(performance.now() - beganMs);
          if (service !== undefined) this.#followers.set(service, (this.#followers.get(service) ?? 0) + 1);
          resolve();
        }
        take(answer);
      });
      call.on('error', (error: Error) => {
        if (!this.#closed) this.broken++;
        reject(error);
      });
    });
  }

  #take({ update }: Update): void {
    this.updates++;
    if (update?.$case === 'add') for (const { addr } of update.add.addrs) this.#heard(addr, true);
    else if (update?.$case === 'remove') for (const addr of update.remove.addrs) this.#heard(addr, false);
  }

  #heard(addr: Parameters<typeof socketFromWire>[0] | undefined, added: boolean): void {
    const ip = addr === undefined ? undefined : socketFromWire(addr)?.ip;
    const expected = ip === undefined ? undefined : this.#expected.get(ip);
    if (ip === undefined || expected?.added !== added || --expected.left > 0) return;
    this.#expected.delete(ip);
    expected.done();
  }
}
