// SPDX-License-Identifier: Apache-2.0
// The targets of a service's profile (dst_overrides), as a client pod's agent follows them: real streams, a real worker,
// and an application for each target.

import { strict as assert } from 'node:assert';
import { createServer, type Server } from 'node:http';
import { after, before, beforeEach, describe } from 'node:test';
import { credentials } from '@grpc/grpc-js';
import { seededRandom, systemClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { DestinationClient, DestinationProfile } from '#lib/proto/gen/linkerd/destination.ts';
import { OutboundPoliciesClient } from '#lib/proto/gen/linkerd/outbound.ts';
import { createDiscovery, type Discovery } from '../../agent/node/discovery.ts';
import { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import { listenIn } from '../proxy/harness.ts';
import { CLIENT, dialAt, PEER } from '../proxy/scene.ts';
import { added, type DestinationServer, type ProfileCall, startDestination } from './destination-server.ts';
import { createStage, type Stage, test } from './stage.ts';

const LISTENER = 15_290;
const PORT = 9_090;
const names = ['apex', 'a', 'b'] as const;
type Name = (typeof names)[number];
const authorityOf = (name: Name): string => `${name}.shop.svc.cluster.local:${PORT}`;
const portOf = (name: Name): number => 9_180 + names.indexOf(name);
const REQUESTS = 60;

describe('targets of a profile', () => {
  let stage: Stage;
  let destination: DestinationServer;
  let discovery: Discovery;
  let client: DestinationClient;
  let policies: OutboundPoliciesClient;
  let profiles: ProfileCall[] = [];
  const applications: Server[] = [];
  before(async () => {
    stage = await createStage({
      discover: (key, target, deliver) => discovery.subscribe(key, target, deliver),
    });
    destination = await startDestination();
    const at = `127.0.0.1:${destination.port}`;
    client = new DestinationClient(at, credentials.createInsecure());
    policies = new OutboundPoliciesClient(at, credentials.createInsecure());
    discovery = createDiscovery({
      client,
      policies,
      nodeName: 'node1',
      localPods: () => undefined,
      clock: systemClock,
      random: seededRandom(12),
      log: silentLog,
    });
    destination.onGet = (call) => {
      const name = names.find((one) => call.request.path === authorityOf(one));
      call.write(added(name === undefined ? [] : [[PEER, portOf(name)]]));
    };
    destination.onProfile = (call) => {
      profiles.push(call);
      call.write(profile());
    };
    for (const name of names) {
      const application = createServer((_request, response) => response.end(name));
      application.listen({ fd: listenIn(stage.scene.home, PEER, portOf(name)) });
      applications.push(application);
    }
    stage.scene.client.kernel.outbound.set(`${CLIENT}:${LISTENER}`, { ip: '10.96.2.1', port: PORT });
    const fd = listenIn(stage.scene.home, CLIENT, LISTENER);
    stage.scene.client.worker.handle({
      type: 'pod',
      pod: stage.scene.clientPod,
      listeners: [{ direction: 'outbound', family: 4, slot: 290, fd }],
    });
  });
  beforeEach(() => {
    stage.fresh();
  });
  after(async () => {
    discovery.close();
    client.close();
    policies.close();
    destination.stop();
    for (const application of applications) application.close().closeAllConnections();
    await stage.close();
  });

  const profile = (...targets: readonly (readonly [name: Name, weight: number])[]): DestinationProfile =>
    DestinationProfile.fromPartial({
      fullyQualifiedName: 'apex.shop.svc.cluster.local',
      dstOverrides: targets.map(([name, weight]) => ({ authority: authorityOf(name), weight })),
    });
  /** Who answers one request on a connection of its own. */
  const ask = async (): Promise<string> => {
    const peer = new RawPeer(await dialAt(CLIENT, LISTENER));
    peer.write('GET / HTTP/1.1\r\nHost: apex\r\nConnection: close\r\n\r\n');
    assert.match(await peer.head(), /^HTTP\/1\.1 200/);
    const body = await peer.rest();
    await peer.close();
    return body;
  };
  const counts = async (): Promise<Readonly<Record<Name, number>>> => {
    const hits = { apex: 0, a: 0, b: 0 };
    for (let request = 0; request < REQUESTS; request++) {
      const answer = await ask();
      const name = names.find((one) => answer.includes(one));
      assert.ok(name, answer);
      hits[name]++;
    }
    return hits;
  };
  /** From now on; returns once requests go where they did not before. */
  const show = async (next: DestinationProfile, until: Name): Promise<void> => {
    profiles.at(-1)?.write(next);
    const deadline = performance.now() + 40_000;
    while ((await ask()) !== until) assert.ok(performance.now() < deadline, `nobody comes to ${until}`);
  };

  test('C-080 a target moves the traffic', async () => {
    assert.deepEqual(await counts(), { apex: REQUESTS, a: 0, b: 0 });
    await show(profile(['a', 10_000]), 'a');
    assert.deepEqual(await counts(), { apex: 0, a: REQUESTS, b: 0 });
  });

  test('C-081 several targets share it by weight, the service itself among them', async () => {
    await show(profile(['apex', 40_000_000], ['b', 10_000_000]), 'b');
    const { apex, a, b } = await counts();
    assert.deepEqual([a, apex + b], [0, REQUESTS]);
    assert.ok(b >= 3 && b <= 24, `${b} of ${REQUESTS} with a fifth of the weight`);
  });

  test('C-082 a weight of nothing gets nothing', async () => {
    await show(profile(['a', 1], ['b', 0]), 'a');
    assert.deepEqual(await counts(), { apex: 0, a: REQUESTS, b: 0 });
  });

  test('C-083 all weights nothing: back to the service itself', async () => {
    await show(profile(['a', 0], ['b', 0]), 'apex');
    assert.deepEqual(await counts(), { apex: REQUESTS, a: 0, b: 0 });
  });

  test('C-084 the target is taken away: back to the service itself', async () => {
    await show(profile(['b', 1]), 'b');
    await show(profile(), 'apex');
    assert.deepEqual(await counts(), { apex: REQUESTS, a: 0, b: 0 });
    profiles = [];
  });
});
