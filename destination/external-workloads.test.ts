// SPDX-License-Identifier: Apache-2.0
// ExternalWorkloads as clients are told of them: behind Services that select them, and at their own addresses.

import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { socketFromWire } from '#lib/proto/addresses.ts';
import {
  DestinationClient,
  type DestinationProfile,
  type Update,
  type WeightedAddr,
} from '#lib/proto/gen/linkerd/destination.ts';
import { InboundServerPoliciesClient, type Server } from '#lib/proto/gen/linkerd/inbound.ts';
import { Inbox, TestCluster, testPod, testService } from './test-cluster.ts';

type Json = Readonly<Record<string, unknown>>;

const WEB = 'web.shop.svc.cluster.local:80';
const IDENTITY = 'spiffe://root.local/vm';
const proxy = 'web.shop.serviceaccount.identity.linkerd.cluster.local';
const service = (spec: Json = {}): Json => testService('web', { clusterIP: '10.96.0.1', ...spec });

interface Given {
  readonly ips?: readonly string[];
  readonly ready?: string;
  readonly ports?: readonly Json[];
  readonly metadata?: Json;
}

const workload = (
  name: string,
  { ips = ['192.0.2.7'], ready = 'True', ports, metadata }: Given = {},
): Json => ({
  apiVersion: 'workload.linkerd.io/v1beta1',
  kind: 'ExternalWorkload',
  metadata: { name, namespace: 'shop', uid: `uid-${name}`, labels: { app: 'web' }, ...metadata },
  spec: {
    meshTLS: { identity: IDENTITY, serverName: 'vm.example' },
    ports: ports ?? [{ name: 'http', port: 8080 }],
    workloadIPs: ips.map((ip) => ({ ip })),
  },
  status: { conditions: [{ type: 'Ready', status: ready }] },
});

const addressOf = (address: WeightedAddr | undefined): string => {
  const socket = socketFromWire(address?.addr);
  return `${socket?.ip}/${socket?.port}`;
};

const added = ({ update }: Update): readonly WeightedAddr[] =>
  update?.$case === 'add' ? update.add.addrs : assert.fail(`${update?.$case}`);
const addresses = (update: Update): string[] => added(update).map(addressOf).sort();
const removed = ({ update }: Update): string[] =>
  update?.$case === 'remove'
    ? update.remove.addrs.map((addr) => `${socketFromWire(addr)?.ip}/${socketFromWire(addr)?.port}`)
    : assert.fail(`${update?.$case}`);

describe('external workloads', () => {
  let cluster: TestCluster;
  let client: DestinationClient;
  const closing: (() => void)[] = [];

  const start = async (...objects: Json[]): Promise<void> => {
    cluster = await TestCluster.start(objects);
    const channel = await cluster.channel(proxy);
    client = new DestinationClient(cluster.address, channel.credentials, channel.options);
  };
  const question = (path: string, token: Json) => ({
    scheme: '',
    path,
    contextToken: JSON.stringify({ ns: 'shop', nodeName: 'n1', ...token }),
  });
  const get = (token: Json = {}, path = WEB): Inbox<Update> => {
    const call = client.get(question(path, token));
    closing.push(() => call.cancel());
    return new Inbox<Update>(call);
  };
  const getProfile = (path: string): Inbox<DestinationProfile> => {
    const call = client.getProfile(question(path, {}));
    closing.push(() => call.cancel());
    return new Inbox<DestinationProfile>(call);
  };
  afterEach(async () => {
    for (const close of closing.splice(0)) close();
    client.close();
    await cluster.close();
  });

  it('stand beside the pods of a service while they are ready', async () => {
    await start(service(), testPod('web-1', { ips: ['10.1.0.1'] }), workload('vm', { ready: 'False' }));
    const inbox = get();
    assert.deepEqual(addresses(await inbox.next()), ['10.1.0.1/8080']);
    await cluster.apply(workload('vm'));
    assert.deepEqual(addresses(await inbox.next()), ['192.0.2.7/8080']);
    await cluster.apply(workload('vm', { ready: 'Unknown' }));
    assert.deepEqual(removed(await inbox.next()), ['192.0.2.7/8080']);
    await cluster.apply(workload('vm', { ips: ['192.0.2.8'] }));
    assert.deepEqual(addresses(await inbox.next()), ['192.0.2.8/8080']);
    await cluster.delete(workload('vm'));
    assert.deepEqual(removed(await inbox.next()), ['192.0.2.8/8080']);
  });

  it('are told of with their identity, the name that it is asked for by, and their proxy’s port', async () => {
    await start(
      service(),
      workload('vm', {
        ports: [{ name: 'http', port: 8080 }, { name: 'linkerd-proxy', port: 5143 }, { port: 9000 }],
        metadata: {
          labels: { app: 'web', 'topology.kubernetes.io/zone': 'zone-n1' },
          ownerReferences: [{ kind: 'WorkloadGroup', name: 'vms', uid: 'x' }],
        },
      }),
    );
    const [told] = added(await get().next());
    assert.deepEqual(told?.tlsIdentity, {
      strategy: { $case: 'uriLikeIdentity', uriLikeIdentity: { uri: IDENTITY } },
      serverName: { name: 'vm.example' },
    });
    assert.deepEqual(told?.protocolHint, {
      protocol: { $case: 'h2', h2: {} },
      opaqueTransport: { inboundPort: 5143 },
    });
    assert.deepEqual(told?.metricLabels, {
      external_workload: 'vm',
      workloadgroup: 'vms',
      zone: 'zone-n1',
      zone_locality: 'local',
    });
    assert.equal(told?.weight, 10_000);
  });

  it('have opaque ports by their own annotation, by name too, else the cluster’s', async () => {
    const kindOf = async (target: number | string) => {
      await cluster.apply(service({ ports: [{ port: 80, targetPort: target }] }));
      await cluster.settled();
      const [told] = added(await get().next());
      return [told?.protocolHint?.protocol?.$case, told?.protocolHint?.opaqueTransport?.inboundPort];
    };
    await start(service(), workload('vm'));
    assert.deepEqual(await kindOf(3306), ['opaque', 4143]);
    const metadata = { annotations: { 'config.linkerd.io/opaque-ports': 'http' } };
    await cluster.apply(workload('vm', { metadata }));
    assert.deepEqual(await kindOf('http'), ['opaque', 4143]);
    assert.deepEqual(await kindOf(3306), ['h2', 4143]);
  });

  it('are left out where the service leads to a port that they do not have, or to the client’s node alone', async () => {
    await start(
      service({ ports: [{ port: 80, targetPort: 'other' }] }),
      testService('near', { selector: { app: 'web' }, internalTrafficPolicy: 'Local' }),
      workload('vm'),
      testPod('web-1', {
        ips: ['10.1.0.1'],
        spec: {
          containers: [
            {
              name: 'main',
              image: 'none',
              ports: ['http', 'other'].map((name) => ({ name, containerPort: 7000 })),
            },
          ],
        },
      }),
    );
    assert.deepEqual(addresses(await get().next()), ['10.1.0.1/7000']);
    assert.deepEqual(addresses(await get({}, 'near.shop.svc.cluster.local:80').next()), ['10.1.0.1/7000']);
  });

  it('have one address for each client: of the family that it dialled', async () => {
    await start(service(), workload('vm', { ips: ['192.0.2.7', '2001:db8::7'] }));
    assert.deepEqual(addresses(await get().next()), ['192.0.2.7/8080']);
    assert.deepEqual(addresses(await get({ ipFamily: 'IPv6' }).next()), ['2001:db8::7/8080']);
  });

  it('without a hint keep all endpoints of a service in use, as pods without one do', async () => {
    await start(service(), testPod('web-1', { ips: ['10.1.0.1'] }), testPod('web-2', { ips: ['10.1.0.2'] }), {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        name: 'web-x',
        namespace: 'shop',
        uid: 'x',
        labels: { 'kubernetes.io/service-name': 'web' },
      },
      endpoints: ['1', '2'].map((number) => ({
        addresses: [`10.1.0.${number}`],
        hints: { forZones: [{ name: `zone-n${number}` }] },
      })),
    });
    const inbox = get();
    assert.deepEqual(addresses(await inbox.next()), ['10.1.0.1/8080']);
    await cluster.apply(workload('vm'));
    assert.deepEqual(addresses(await inbox.next()), ['10.1.0.2/8080', '192.0.2.7/8080']);
  });

  it('at their own address and a port of theirs have a profile, ready or not; at other ports nobody knows them', async () => {
    await start(workload('vm', { ready: 'False' }));
    const inbox = getProfile('192.0.2.7:8080');
    const known = await inbox.next();
    assert.equal(known.endpoint?.tlsIdentity?.serverName?.name, 'vm.example');
    assert.deepEqual(known.endpoint?.metricLabels, {
      external_workload: 'vm',
      zone_locality: 'unknown',
      namespace: 'shop',
    });
    assert.equal(known.opaqueProtocol, false);
    const other = await getProfile('192.0.2.7:8081').next();
    assert.deepEqual([other.endpoint?.tlsIdentity, other.endpoint?.metricLabels], [undefined, {}]);
    await cluster.apply(
      workload('vm', { metadata: { annotations: { 'config.linkerd.io/opaque-ports': '8080' } } }),
    );
    assert.equal((await inbox.next()).opaqueProtocol, true);
    await cluster.delete(workload('vm'));
    assert.equal((await inbox.next()).endpoint?.tlsIdentity, undefined);
  });

  it('two at one address and port: nobody is told either', async () => {
    await start(workload('vm'), workload('vm-2'));
    await assert.rejects(
      getProfile('192.0.2.7:8080').next(),
      /found 2 external workloads at 192\.0\.2\.7:8080/,
    );
  });

  it('in slices that somebody else writes are known by their addresses', async () => {
    await start(service({ selector: null }), workload('vm'), {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        name: 'web-x',
        namespace: 'shop',
        uid: 'x',
        labels: { 'kubernetes.io/service-name': 'web' },
      },
      ports: [{ name: '', port: 8080 }],
      endpoints: [{ addresses: ['192.0.2.7'] }],
    });
    const inbox = get();
    assert.equal(added(await inbox.next())[0]?.tlsIdentity?.serverName?.name, 'vm.example');
    await cluster.delete(workload('vm'));
    assert.equal(added(await inbox.next())[0]?.tlsIdentity, undefined);
  });

  it('are read in the older version too; one without meshTLS stays as it was, with the reason in the log', async () => {
    const { spec, ...rest } = workload('vm') as { spec: { meshTLS: Json } };
    const { meshTLS, ...others } = spec;
    const old = {
      ...rest,
      apiVersion: 'workload.linkerd.io/v1alpha1',
      spec: { ...others, meshTls: meshTLS },
    };
    await start(service(), old);
    const inbox = get();
    assert.deepEqual(addresses(await inbox.next()), ['192.0.2.7/8080']);
    await cluster.apply({ ...rest, spec: others });
    await cluster.settled();
    assert.equal(inbox.pending, 0);
    assert.match(JSON.stringify(cluster.log.lines), /spec needs meshTLS with an identity and a serverName/);
  });

  describe('their proxies', () => {
    const ME = '{"ns":"shop","external_workload":"vm"}';
    const policies = async (identity: string): Promise<InboundServerPoliciesClient> => {
      const channel = await cluster.channel(identity);
      const made = new InboundServerPoliciesClient(cluster.address, channel.credentials, channel.options);
      closing.push(() => made.close());
      return made;
    };
    const port = async (asked: number, workload = ME, identity = IDENTITY): Promise<Server> => {
      const asker = await policies(identity);
      return new Promise((resolve, reject) => {
        asker.getPort({ workload, port: asked }, (error, server) =>
          error === null ? resolve(server) : reject(error),
        );
      });
    };
    const annotated = (annotations: Json, more: Given = {}): Json =>
      workload('vm', { ...more, metadata: { annotations } });

    it('look up what their namespace may, and no other', async () => {
      await start(service(), workload('vm'), testPod('web-1', { ips: ['10.1.0.1'] }));
      const channel = await cluster.channel(IDENTITY);
      client.close();
      client = new DestinationClient(cluster.address, channel.credentials, channel.options);
      assert.deepEqual(addresses(await get({ external_workload: 'vm' }).next()), [
        '10.1.0.1/8080',
        '192.0.2.7/8080',
      ]);
      await assert.rejects(get({ ns: 'bank' }).next(), { code: status.PERMISSION_DENIED });
    });

    it('are told their own default policy and opaque ports, with a route for everything', async () => {
      await start(
        annotated({
          'config.linkerd.io/default-inbound-policy': 'all-authenticated',
          'config.linkerd.io/opaque-ports': '7000',
        }),
      );
      const detected = await port(8080);
      assert.equal(detected.labels['name'], 'all-authenticated');
      const { kind } = detected.protocol ?? {};
      assert.deepEqual(
        kind?.$case === 'detect' && kind.detect.httpRoutes.map(({ metadata }) => metadata?.kind),
        [{ $case: 'default', default: 'default' }],
      );
      assert.equal((await port(7000)).protocol?.kind?.$case, 'opaque');
    });

    it('a policy that cannot be read lets nobody in', async () => {
      await start(annotated({ 'config.linkerd.io/default-inbound-policy': 'everybody' }));
      assert.deepEqual((await port(8080)).authorizations, []);
    });

    it('are refused the policy of others, and of what is not there', async () => {
      await start(workload('vm'), testPod('web-1', { ips: ['10.1.0.1'] }));
      const web = '{"ns":"shop","pod":"web-1"}';
      await assert.rejects(port(80, web), { code: status.PERMISSION_DENIED });
      await assert.rejects(port(80, ME, proxy), {
        code: status.PERMISSION_DENIED,
        details: `${proxy} asked for the policy of external workload shop/vm; only its own may be asked for`,
      });
      await assert.rejects(port(80, '{"ns":"shop","external_workload":"none"}'), {
        code: status.NOT_FOUND,
      });
    });

    it('hear of changes, also without an address, until the workload is gone', async () => {
      await start(workload('vm', { ips: [] }));
      const call = (await policies(IDENTITY)).watchPort({ workload: ME, port: 8080 });
      const inbox = new Inbox<Server>(call);
      const ended = new Promise((resolve) => call.on('end', () => resolve(true)));
      assert.equal((await inbox.next()).labels['name'], 'all-unauthenticated');
      await cluster.apply(annotated({ 'config.linkerd.io/default-inbound-policy': 'deny' }, { ips: [] }));
      assert.equal((await inbox.next()).labels['name'], 'deny');
      await cluster.delete(workload('vm'));
      await ended;
    });
  });
});
