// SPDX-License-Identifier: Apache-2.0
// Addresses of nodes: the pods that are behind their ports, by hostPort or in the network of the node itself.

import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { socketFromWire } from '#lib/proto/addresses.ts';
import {
  DestinationClient,
  type DestinationProfile,
  type Update,
  type WeightedAddr,
} from '#lib/proto/gen/linkerd/destination.ts';
import { Inbox, TestCluster, testPod, testService } from './test-cluster.ts';

type Json = Readonly<Record<string, unknown>>;

const PROXY = 'web.shop.serviceaccount.identity.linkerd.cluster.local';

/** On a node with two addresses; `ports` as in a container. */
const podWith = (name: string, ips: readonly string[], ports: readonly Json[], spec: Json = {}): Json => {
  const pod = testPod(name, {
    ips,
    spec: { ...spec, containers: [{ name: 'main', image: 'none', ports }] },
  });
  return { ...pod, status: { ...(pod['status'] as Json), hostIPs: [{ ip: '10.9.0.1' }, { ip: 'fd00::9' }] } };
};
const inNode = (name: string, ports: readonly Json[]): Json =>
  podWith(name, ['10.9.0.1', 'fd00::9'], ports, { hostNetwork: true });

describe('the address of a node', () => {
  let cluster: TestCluster;
  let client: DestinationClient;
  afterEach(async () => {
    client.close();
    await cluster.close();
  });

  const start = async (...objects: readonly Json[]): Promise<void> => {
    cluster = await TestCluster.start(objects);
    const channel = await cluster.channel(PROXY);
    client = new DestinationClient(cluster.address, channel.credentials, channel.options);
  };
  const request = (path: string) => ({ scheme: '', path, contextToken: '{"ns":"shop","nodeName":"n1"}' });
  const picture = (address: WeightedAddr | undefined) => {
    const socket = socketFromWire(address?.addr);
    return [`${socket?.ip}/${socket?.port}`, address?.metricLabels['pod'], address?.tlsIdentity];
  };
  const endpointOf = async (path: string) => {
    const call = client.getProfile(request(path));
    const { endpoint, opaqueProtocol } = await new Inbox<DestinationProfile>(call).next();
    call.cancel();
    return [...picture(endpoint), opaqueProtocol];
  };

  it('a port that a pod of the node’s network declares is that pod, as it was asked for', async () => {
    // The API server sets hostPort there; a manifest need not.
    await start(
      inNode('given', [{ containerPort: 9100, hostPort: 9100 }]),
      inNode('declared', [{ containerPort: 3306 }, { containerPort: 53, protocol: 'UDP' }]),
    );
    assert.deepEqual(await endpointOf('10.9.0.1:9100'), ['10.9.0.1/9100', 'given', undefined, false]);
    assert.deepEqual(await endpointOf('[fd00::9]:9100'), ['fd00::9/9100', 'given', undefined, false]);
    assert.deepEqual(await endpointOf('10.9.0.1:3306'), ['10.9.0.1/3306', 'declared', undefined, true]);
  });

  it('a port that nobody declares, one of UDP and one of another node are the address alone', async () => {
    await start(inNode('declared', [{ containerPort: 9100 }, { containerPort: 53, protocol: 'UDP' }]));
    for (const [ip, port] of [
      ['10.9.0.1', 9101],
      ['10.9.0.1', 53],
      ['10.9.0.2', 9100],
    ] as const) {
      assert.deepEqual(await endpointOf(`${ip}:${port}`), [`${ip}/${port}`, undefined, undefined, false]);
    }
  });

  it('a hostPort is its pod by the pod’s own address, in the family that was dialled', async () => {
    await start(podWith('behind', ['10.1.0.1', 'fd00::1'], [{ containerPort: 8080, hostPort: 7777 }]));
    assert.deepEqual(await endpointOf('10.9.0.1:7777'), ['10.1.0.1/8080', 'behind', undefined, false]);
    assert.deepEqual(await endpointOf('[fd00::9]:7777'), ['fd00::1/8080', 'behind', undefined, false]);
    // The port of the container is none of the node's.
    assert.deepEqual(await endpointOf('10.9.0.1:8080'), ['10.9.0.1/8080', undefined, undefined, false]);
  });

  it('follows pods that come and go', async () => {
    await start();
    const inbox = new Inbox<DestinationProfile>(client.getProfile(request('10.9.0.1:9100')));
    assert.deepEqual(picture((await inbox.next()).endpoint), ['10.9.0.1/9100', undefined, undefined]);
    await cluster.apply(inNode('declared', [{ containerPort: 9100 }]));
    assert.deepEqual(picture((await inbox.next()).endpoint), ['10.9.0.1/9100', 'declared', undefined]);
    await cluster.delete(inNode('declared', [{ containerPort: 9100 }]));
    assert.deepEqual(picture((await inbox.next()).endpoint), ['10.9.0.1/9100', undefined, undefined]);
  });

  it('a service whose pods are in the network of their nodes leads to the nodes', async () => {
    const pod = inNode('web-1', [{ name: 'http', containerPort: 8080 }]);
    await start(testService('web', { clusterIP: '10.96.0.1' }), {
      ...pod,
      metadata: { ...(pod['metadata'] as Json), labels: { app: 'web' } },
    });
    const { update } = await new Inbox<Update>(client.get(request('web.shop.svc.cluster.local:80'))).next();
    assert.deepEqual(update?.$case === 'add' && update.add.addrs.map(picture), [
      ['10.9.0.1/8080', 'web-1', undefined],
    ]);
  });
});
