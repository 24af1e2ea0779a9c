// SPDX-License-Identifier: Apache-2.0
// What a client pod's agent makes of the answers of a destination service, of their end and of their absence: real
// streams, a real worker, and requests that succeed or fail.

import { strict as assert } from 'node:assert';
import { after, before, beforeEach, describe } from 'node:test';
import { credentials } from '@grpc/grpc-js';
import { seededRandom, systemClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { DestinationClient } from '#lib/proto/gen/linkerd/destination.ts';
import { OutboundPoliciesClient } from '#lib/proto/gen/linkerd/outbound.ts';
import { createDiscovery, type Discovery } from '../../agent/node/discovery.ts';
import { RawPeer, RawServer } from '../../agent/proxy/exchange/raw-peers.ts';
import { listenIn, until } from '../proxy/harness.ts';
import { CLIENT, dialAt, PEER } from '../proxy/scene.ts';
import {
  added,
  type DestinationServer,
  fail,
  type GetCall,
  profileOf,
  sendNoEndpoints,
  startDestination,
  status,
} from './destination-server.ts';
import { parseMetrics, sumOf } from './metrics.ts';
import { APP_PORT, createStage, fieldsOf, type Stage, statusOf, test } from './stage.ts';

const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const NAME = 'api.shop.svc.cluster.local';
const HERE = [[PEER, APP_PORT]] as const;
/** Listeners to destinations of which nobody has asked yet. */
const FRESH_PORTS = Array.from({ length: 16 }, (_, index) => 15_300 + index);

describe('discovery', () => {
  let stage: Stage;
  let destination: DestinationServer;
  let discovery: Discovery;
  let client: DestinationClient;
  /** The original destination of listeners made here: what is forwarded as it is arrives there. */
  let original: RawServer;
  let used = 0;
  before(async () => {
    stage = await createStage({
      failfastMs: 1_200,
      discover: (key, target, deliver) => discovery.subscribe(key, target, deliver),
    });
    destination = await startDestination();
    client = new DestinationClient(`127.0.0.1:${destination.port}`, credentials.createInsecure());
    discovery = createDiscovery({
      client,
      policies: new OutboundPoliciesClient(`127.0.0.1:${destination.port}`, credentials.createInsecure()),
      nodeName: 'node1',
      localPods: () => undefined,
      clock: systemClock,
      random: seededRandom(11),
      log: silentLog,
    });
    for (const [index, port] of FRESH_PORTS.entries()) {
      stage.scene.client.kernel.outbound.set(`${CLIENT}:${port}`, { ip: PEER, port: 9_100 + index });
    }
    stage.scene.client.worker.handle({
      type: 'pod',
      pod: stage.scene.clientPod,
      listeners: FRESH_PORTS.map((port, slot) => ({
        direction: 'outbound',
        family: 4,
        slot: slot + 300,
        fd: listenIn(stage.scene.home, CLIENT, port),
      })),
    });
  });
  beforeEach(() => {
    stage.fresh();
    destination.gets.length = 0;
    destination.profiles.length = 0;
    destination.onProfile = (call) => call.write(profileOf(NAME));
    destination.onGet = (call) => call.write(added(HERE));
  });
  after(async () => {
    discovery.close();
    client.close();
    destination.stop();
    await stage.close();
  });

  /** Asks by a destination of its own, again with the same `index`. */
  const fresh = (): number => used++;
  const dial = async (index: number): Promise<RawPeer> =>
    new RawPeer(await dialAt(CLIENT, FRESH_PORTS[index] as number));
  const send = async (index: number, form = 'GET / HTTP/1.1'): Promise<RawPeer> => {
    const peer = await dial(index);
    peer.write(`${form}\r\nHost: discovery-${index}.test\r\nConnection: close\r\n\r\n`);
    return peer;
  };
  const answered = async (peer: RawPeer): Promise<number> => {
    const head = await peer.head();
    await peer.close();
    return statusOf(head);
  };
  /** A request that reaches the endpoint and is answered. */
  const served = async (index: number, form?: string): Promise<void> => {
    const peer = await send(index, form);
    const server = await stage.peer.accept();
    await server.head();
    server.write(OK.replace('\r\n', '\r\nConnection: close\r\n'));
    assert.equal(await answered(peer), 200);
    server.socket.destroy();
  };
  const reopened = async (count: number): Promise<GetCall> =>
    until(() => destination.gets.length >= count && destination.gets.at(-1), `stream ${count}`);

  /** The agent has heard that nobody is there. */
  const emptied = async (index: number): Promise<void> => {
    await until(
      () =>
        discovery
          .known(100)
          .some(
            ({ target, destination: one }) =>
              target.port === 9_100 + index && one.kind === 'service' && one.endpoints.length === 0,
          ),
      'no endpoints',
    );
  };

  test('C-040 the control plane is asked, and requests reach the endpoint that it names', async () => {
    for (const form of ['GET / HTTP/1.1', 'GET http://elsewhere.test/ HTTP/1.1']) {
      const index = fresh();
      await served(index, form);
      assert.deepEqual(
        destination.profiles.map(({ request }) => request.path),
        [`${PEER}:${9_100 + index}`],
      );
      // The same service on another port is another question.
      assert.equal(destination.gets.at(-1)?.request.path, `${NAME}:${9_100 + index}`);
      assert.deepEqual(JSON.parse(destination.gets.at(-1)?.request.contextToken ?? ''), {
        ns: 'shop',
        nodeName: 'node1',
      });
      destination.profiles.length = 0;
    }
  });
  test('C-041 repeated requests ask it once', async () => {
    const index = fresh();
    for (let request = 0; request < 5; request++) await served(index);
    assert.deepEqual([destination.profiles.length, destination.gets.length], [1, 1]);
  });
  test('C-042 and C-313 its stream ends: asked again, and traffic goes on meanwhile', async () => {
    const index = fresh();
    await served(index);
    const first = destination.gets[0];
    destination.onGet = () => undefined;
    first?.end();
    await served(index);
    const second = await reopened(2);
    await served(index);
    // What the new stream says first replaces everything.
    const other = await RawServer.listen(listenIn(stage.scene.home, PEER, APP_PORT + 200));
    second.write(added([[PEER, APP_PORT + 200]]));
    for (;;) {
      const peer = await send(index);
      await until(
        () => other.connections.length > 0 || stage.peer.connections.some((one) => one.received !== ''),
        'it',
      );
      const there = other.connections.at(-1);
      const server = there ?? (await stage.peer.accept());
      await server.head();
      server.write(OK);
      await answered(peer);
      server.socket.destroy();
      if (there !== undefined) break;
    }
    await other.close();
  });
  test('C-044 a destination that does not exist any more: 504, and never where it was going', async () => {
    const index = fresh();
    original = await RawServer.listen(listenIn(stage.scene.home, PEER, 9_100 + index));
    destination.onGet = (call) => fail(call, status.NOT_FOUND);
    assert.equal(await answered(await send(index)), 504);
    assert.equal(original.connections.length, 0);
    await original.close();
  });
  test('C-045 an address that is none of the cluster’s goes where it was going', async () => {
    const index = fresh();
    original = await RawServer.listen(listenIn(stage.scene.home, PEER, 9_100 + index));
    destination.onProfile = (call) => call.write(profileOf(''));
    const peer = await send(index);
    const server = await original.accept();
    await server.head();
    server.write(OK);
    assert.equal(await answered(peer), 200);
    assert.equal(destination.gets.length, 0);
    await original.close();
  });
  test('C-046 the control plane calls the question wrong: that is no answer, so nothing goes out; one that comes later counts', async () => {
    const index = fresh();
    original = await RawServer.listen(listenIn(stage.scene.home, PEER, 9_100 + index));
    destination.onProfile = (call) => fail(call, status.INVALID_ARGUMENT);
    assert.equal(await answered(await send(index)), 503);
    assert.equal(original.connections.length, 0);
    destination.onProfile = (call) => call.write(profileOf(NAME));
    await until(() => destination.gets.length > 0, 'the question, asked again');
    await served(index);
    await original.close();
  });
  test('C-047 after a reconnect there are no endpoints: the earlier one is not used', async () => {
    const index = fresh();
    await served(index);
    destination.onGet = sendNoEndpoints;
    destination.gets[0]?.end();
    await emptied(index);
    const before = stage.peer.connections.length;
    assert.ok([503, 504].includes(await answered(await send(index))));
    assert.equal(stage.peer.connections.length, before);
  });
  test('C-048 after a reconnect it does not exist: the earlier endpoint is not used', async () => {
    const index = fresh();
    await served(index);
    destination.onGet = (call) => fail(call, status.NOT_FOUND);
    destination.gets[0]?.end();
    await emptied(index);
    const before = stage.peer.connections.length;
    assert.ok([503, 504].includes(await answered(await send(index))));
    assert.equal(stage.peer.connections.length, before);
  });
  test('C-049 no answer at all: an error after the time that a request may wait', async () => {
    const index = fresh();
    destination.onGet = () => undefined;
    const peer = await send(index);
    const head = await peer.head();
    assert.equal(statusOf(head), 504);
    assert.equal(fieldsOf(head).get('l5d-proxy-error'), 'service in fail-fast');
  });
  test('C-050 an error, then an answer: asked again after a pause, and the request succeeds', async () => {
    const index = fresh();
    const at: number[] = [];
    destination.onGet = (call) => {
      at.push(performance.now());
      if (at.length === 1) fail(call, status.UNAVAILABLE);
      else call.write(added(HERE));
    };
    await served(index);
    assert.equal(at.length, 2);
    assert.ok((at[1] ?? 0) - (at[0] ?? 0) >= 95, 'a pause');
  });
  test('labels of the service and of an endpoint are merged, the endpoint’s prevail', async () => {
    const index = fresh();
    destination.onGet = (call) =>
      call.write(added(HERE, { service: 'api', both: 'set' }, { pod: 'api-0', both: 'endpoint' }));
    await served(index);
    const series = parseMetrics(await stage.scene.client.metrics());
    const labels = { dst_service: 'api', dst_pod: 'api-0', dst_both: 'endpoint' };
    assert.equal(sumOf(series, 'request_total', labels), 1);
  });
  test('C-446 the control plane is away: known destinations work, unknown ones fail, none is downgraded', async () => {
    const known = fresh();
    await served(known);
    destination.stop();
    for (let request = 0; request < 3; request++) await served(known);
    const unknown = fresh();
    original = await RawServer.listen(listenIn(stage.scene.home, PEER, 9_100 + unknown));
    assert.equal(await answered(await send(unknown)), 503);
    assert.equal(original.connections.length, 0);
    await original.close();
    // What the server's side knows of its ports stays: nobody is asked at a connection.
    const { client: peer, server } = await stage.exchange('in', 'GET / HTTP/1.1\r\nHost: @\r\n\r\n');
    server.write(OK);
    assert.equal(statusOf(await peer.take('ok')), 200);
  });
});
