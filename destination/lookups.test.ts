// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { type ServiceError, status } from '@grpc/grpc-js';
import { socketFromWire } from '#lib/proto/addresses.ts';
import {
  DestinationClient,
  type DestinationProfile,
  type Update,
  type WeightedAddr,
} from '#lib/proto/gen/linkerd/destination.ts';
import { Inbox, optedIn, TestCluster, testNamespace, testPod, testService } from './test-cluster.ts';

const proxy = 'web.shop.serviceaccount.identity.linkerd.cluster.local';
const shop = 'svc.cluster.local';

const addressOf = (address: WeightedAddr | undefined): string => {
  const socket = socketFromWire(address?.addr);
  return `${socket?.ip}/${socket?.port}`;
};

/** `+10.1.0.1/8080` for what is added, `-` for what is removed. */
function told({ update }: Update): string[] {
  if (update?.$case === 'add') return update.add.addrs.map((address) => `+${addressOf(address)}`).sort();
  if (update?.$case !== 'remove') return [];
  return update.remove.addrs.map((addr) => {
    const socket = socketFromWire(addr);
    return `-${socket?.ip}/${socket?.port}`;
  });
}

describe('lookups', () => {
  let cluster: TestCluster;
  let client: DestinationClient;
  let closing: (() => void)[] = [];

  const start = async (objects: readonly Readonly<Record<string, unknown>>[]): Promise<void> => {
    cluster = await TestCluster.start(objects);
    // A proxy of its own identity needs no node stream.
    const channel = await cluster.channel(proxy);
    client = new DestinationClient(cluster.address, channel.credentials, channel.options);
  };
  const request = (path: string, token: object = { ns: 'shop', nodeName: 'n1' }) => ({
    scheme: '',
    path,
    contextToken: JSON.stringify(token),
  });
  const get = (path: string, token?: object): Inbox<Update> => {
    const call = client.get(request(path, token));
    closing.push(() => call.cancel());
    return new Inbox<Update>(call);
  };
  const getProfile = (path: string, token?: object): Inbox<DestinationProfile> => {
    const call = client.getProfile(request(path, token));
    closing.push(() => call.cancel());
    return new Inbox<DestinationProfile>(call);
  };
  const enrol = (name: string, state: 'True' | 'False' = 'True', reason = 'Enrolled'): Promise<void> =>
    cluster.registry.reportStatus(
      { cluster: 'local', namespace: 'shop', name, uid: `uid-${name}` },
      { condition: { status: state, reason, message: '', generation: 1 } },
    );

  beforeEach(() => {
    closing = [];
  });
  afterEach(async () => {
    for (const close of closing) close();
    client.close();
    await cluster.close();
  });

  describe('Get', () => {
    it('sends all ready endpoints, then differences as files change', async () => {
      await start([
        testService('web', { clusterIP: '10.96.0.1' }),
        testPod('web-1', { ips: ['10.1.0.1'] }),
        testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }),
        testPod('web-3', { ips: ['10.1.0.3'], ready: false }),
        testPod('other-1', { ips: ['10.1.0.4'] }),
      ]);
      const inbox = get(`web.shop.${shop}:80`);
      const first = await inbox.next();
      assert.deepEqual(told(first), ['+10.1.0.1/8080', '+10.1.0.2/8080']);
      assert.equal(first.update?.$case, 'add');
      assert.deepEqual(first.update.add.metricLabels, { namespace: 'shop', service: 'web' });
      await cluster.apply(testPod('web-3', { ips: ['10.1.0.3'] }));
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.3/8080']);
      await cluster.delete(testPod('web-1'));
      assert.deepEqual(told(await inbox.next()), ['-10.1.0.1/8080']);
      await cluster.apply(
        testService('web', { clusterIP: '10.96.0.1', ports: [{ port: 80, targetPort: 9090 }] }),
      );
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.2/9090', '+10.1.0.3/9090']);
      assert.deepEqual(told(await inbox.next()).sort(), ['-10.1.0.2/8080', '-10.1.0.3/8080']);
    });

    it('gives labels of the pod, and the locality of its zone', async () => {
      const owner = { kind: 'ReplicaSet', name: 'web-abc12', uid: 'x', controller: true };
      await start([
        testService('web', {}),
        testPod('web-1', {
          ips: ['10.1.0.1'],
          node: 'n2',
          serviceAccount: 'web',
          labels: { app: 'web', 'pod-template-hash': 'abc12' },
          metadata: { ownerReferences: [owner] },
        }),
      ]);
      const first = await get(`web.shop.${shop}:80`).next();
      assert.equal(first.update?.$case, 'add');
      const [address] = first.update.add.addrs;
      assert.equal(address?.weight, 10_000);
      assert.deepEqual(address?.metricLabels, {
        pod: 'web-1',
        deployment: 'web',
        serviceaccount: 'web',
        pod_template_hash: 'abc12',
        zone: 'zone-n2',
        zone_locality: 'remote',
      });
      assert.equal(address?.tlsIdentity, undefined);
      assert.equal(address?.protocolHint, undefined);
    });

    it('names the CronJob of a pod, once its Job is known', async () => {
      const metadata = {
        ownerReferences: [{ kind: 'Job', name: 'web-29', uid: 'j', controller: true }],
      };
      await start([
        testService('web', {}),
        testPod('web-29-x', { ips: ['10.1.0.1'], labels: { app: 'web' }, metadata }),
      ]);
      const inbox = get(`web.shop.${shop}:80`);
      const ownerIn = ({ update }: Update) => {
        const labels = update?.$case === 'add' ? update.add.addrs[0]?.metricLabels : undefined;
        return [labels?.['k8s_job'], labels?.['cronjob']];
      };
      assert.deepEqual(ownerIn(await inbox.next()), ['web-29', undefined]);
      const job = (name: string) => ({
        apiVersion: 'batch/v1',
        kind: 'Job',
        metadata: {
          name,
          namespace: 'shop',
          uid: 'j',
          ownerReferences: [{ kind: 'CronJob', name: 'web', uid: 'c', controller: true }],
        },
      });
      await cluster.apply(job('web-28'));
      await cluster.settled();
      assert.equal(inbox.pending, 0);
      await cluster.apply(job('web-29'));
      assert.deepEqual(ownerIn(await inbox.next()), [undefined, 'web']);
    });

    const slice = (zones: Readonly<Record<string, readonly string[] | undefined>>) => ({
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: {
        name: 'web-1',
        namespace: 'shop',
        uid: 'slice',
        labels: { 'kubernetes.io/service-name': 'web' },
      },
      addressType: 'IPv4',
      endpoints: Object.entries(zones).map(([ip, names]) => ({
        addresses: [ip],
        ...(names === undefined ? {} : { hints: { forZones: names.map((name) => ({ name })) } }),
      })),
    });
    it('sends the endpoints that stand in slices of a service without a selector, with what pods they are', async () => {
      const of = (ips: readonly string[]) => ({
        ...slice(Object.fromEntries(ips.map((ip) => [ip, undefined]))),
        ports: [{ name: '', port: 6443 }],
      });
      await start([
        testService('web', { clusterIP: '10.96.0.1', selector: null }),
        testPod('api-1', { ips: ['10.1.0.1'] }),
        of(['10.1.0.1', '192.0.2.1']),
      ]);
      const inbox = get(`web.shop.${shop}:80`);
      const first = await inbox.next();
      assert.deepEqual(told(first), ['+10.1.0.1/6443', '+192.0.2.1/6443']);
      assert.equal(first.update?.$case, 'add');
      assert.deepEqual(
        first.update.add.addrs.map(({ metricLabels }) => metricLabels['pod']),
        ['api-1', undefined],
      );
      await enrol('api-1');
      const enrolled = await inbox.next();
      assert.equal(enrolled.update?.$case, 'add');
      assert.equal(
        enrolled.update.add.addrs[0]?.tlsIdentity?.serverName?.name,
        'default.shop.serviceaccount.identity.linkerd.cluster.local',
      );
      await cluster.apply(of(['192.0.2.1']));
      assert.deepEqual(told(await inbox.next()), ['-10.1.0.1/6443']);
    });

    const near = ['zone-n1'];
    const far = ['zone-n2', 'zone-n3'];

    it('sends only endpoints whose hints name the zone of the client, and follows the hints', async () => {
      await start([
        testService('web', {}),
        testPod('web-1', { ips: ['10.1.0.1'], node: 'n1' }),
        testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }),
        slice({ '10.1.0.1': near, '10.1.0.2': far }),
      ]);
      const inbox = get(`web.shop.${shop}:80`);
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.1/8080']);
      await cluster.apply(slice({ '10.1.0.1': far, '10.1.0.2': near }));
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.2/8080']);
      assert.deepEqual(told(await inbox.next()), ['-10.1.0.1/8080']);
      await cluster.delete(slice({}));
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.1/8080']);
    });

    it('sends all endpoints if the hints leave the zone of the client none', async () => {
      await start([
        testService('web', {}),
        testPod('web-1', { ips: ['10.1.0.1'], node: 'n1' }),
        testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }),
        slice({ '10.1.0.1': near, '10.1.0.2': far }),
      ]);
      const inbox = get(`web.shop.${shop}:80`);
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.1/8080']);
      await cluster.delete(testPod('web-1', { ips: ['10.1.0.1'], node: 'n1' }));
      await cluster.apply(slice({ '10.1.0.2': far }));
      const seen = [...told(await inbox.next()), ...told(await inbox.next())].sort();
      assert.deepEqual(seen, ['+10.1.0.2/8080', '-10.1.0.1/8080']);
    });

    it('sends all endpoints if one of them has no hint', async () => {
      await start([
        testService('web', {}),
        testPod('web-1', { ips: ['10.1.0.1'], node: 'n1' }),
        testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }),
        slice({ '10.1.0.1': near, '10.1.0.2': undefined }),
      ]);
      assert.deepEqual(told(await get(`web.shop.${shop}:80`).next()), ['+10.1.0.1/8080', '+10.1.0.2/8080']);
    });

    it('advertises identity and 4143 only while the pod is reported enrolled, and not on skipped ports', async () => {
      const ports = [
        { name: 'a', port: 80, targetPort: 'http' },
        { name: 'b', port: 81, targetPort: 7000 },
        { name: 'c', port: 82, targetPort: 6379 },
      ];
      await start([
        testService('web', { ports }),
        testPod('web-1', {
          ips: ['10.1.0.1'],
          annotations: { 'config.linkerd.io/skip-inbound-ports': '7000' },
        }),
      ]);
      const inbox = get(`web.shop.${shop}:80`);
      const plain = await inbox.next();
      assert.equal(plain.update?.$case, 'add');
      assert.equal(plain.update.add.addrs[0]?.tlsIdentity, undefined);

      await enrol('web-1');
      const meshed = await inbox.next();
      assert.equal(meshed.update?.$case, 'add');
      const [address] = meshed.update.add.addrs;
      const name = 'default.shop.serviceaccount.identity.linkerd.cluster.local';
      assert.deepEqual(address?.tlsIdentity, {
        strategy: { $case: 'dnsLikeIdentity', dnsLikeIdentity: { name } },
        serverName: { name },
      });
      assert.deepEqual(address?.protocolHint, {
        protocol: { $case: 'h2', h2: {} },
        opaqueTransport: { inboundPort: 4143 },
      });
      assert.equal(address?.metricLabels['control_plane_ns'], 'linkerd');

      // What its agent cannot do comes with the report.
      await enrol('web-1', 'True', 'EnrolledHttp1Only');
      const hinted = await inbox.next();
      assert.equal(hinted.update?.$case, 'add');
      assert.deepEqual(hinted.update.add.addrs[0]?.protocolHint, {
        protocol: undefined,
        opaqueTransport: { inboundPort: 4143 },
      });

      const skipped = await get(`web.shop.${shop}:81`).next();
      assert.equal(skipped.update?.$case, 'add');
      assert.equal(skipped.update.add.addrs[0]?.tlsIdentity, undefined);
      assert.equal(skipped.update.add.addrs[0]?.protocolHint, undefined);
      const opaque = await get(`web.shop.${shop}:82`).next();
      assert.equal(opaque.update?.$case, 'add');
      assert.equal(opaque.update.add.addrs[0]?.protocolHint?.protocol?.$case, 'opaque');

      await enrol('web-1', 'False');
      const left = await inbox.next();
      assert.equal(left.update?.$case, 'add');
      assert.equal(left.update.add.addrs[0]?.tlsIdentity, undefined);
    });

    it('withdraws identity at once when the namespace opts out', async () => {
      await start([testService('web', {}), testPod('web-1', { ips: ['10.1.0.1'] })]);
      await enrol('web-1');
      const inbox = get(`web.shop.${shop}:80`);
      const first = await inbox.next();
      assert.equal(
        first.update?.$case === 'add' && first.update.add.addrs[0]?.tlsIdentity !== undefined,
        true,
      );
      await cluster.apply(testNamespace('shop'));
      const second = await inbox.next();
      assert.equal(
        second.update?.$case === 'add' && second.update.add.addrs[0]?.tlsIdentity === undefined,
        true,
      );
    });

    it('chooses the family that was dialled, then the one the service prefers', async () => {
      const ips = ['10.1.0.1', 'fd00::1'];
      await start([
        testService('web', { clusterIPs: ['10.96.0.1', 'fd00:96::1'] }),
        testService('six', { clusterIPs: ['fd00:96::2'], selector: { app: 'web' } }),
        testPod('web-1', { ips }),
      ]);
      const token = { ns: 'shop', nodeName: 'n1', ipFamily: 'IPv6' };
      assert.deepEqual(told(await get(`web.shop.${shop}:80`).next()), ['+10.1.0.1/8080']);
      assert.deepEqual(told(await get(`web.shop.${shop}:80`, token).next()), ['+fd00::1/8080']);
      assert.deepEqual(told(await get(`six.shop.${shop}:80`).next()), ['+fd00::1/8080']);
    });

    it('says in its headers that there are no endpoints, and nothing more until there are', async () => {
      await start([testService('web', {})]);
      const call = client.get(request(`web.shop.${shop}:80`));
      const inbox = new Inbox(call);
      closing.push(() => call.cancel());
      const headers = await new Promise<unknown>((resolve) => {
        call.on('metadata', (metadata) => resolve(metadata.get('nodemesh-initial-endpoints')[0]));
      });
      assert.equal(headers, '0');
      assert.equal(inbox.pending, 0);
      await cluster.apply(testPod('web-1', { ips: ['10.1.0.1'] }));
      assert.deepEqual(told(await inbox.next()), ['+10.1.0.1/8080']);
      await cluster.delete(testPod('web-1'));
      assert.deepEqual(told(await inbox.next()), ['-10.1.0.1/8080']);
    });

    it('says in its headers what the service asks of its clients, and ends a stream whose service says otherwise now', async () => {
      const service = (annotations: Record<string, string>) => {
        const made = testService('web', { clusterIP: '10.96.0.1' }) as { metadata: object };
        return { ...made, metadata: { ...made.metadata, annotations } };
      };
      const headersOf = async (): Promise<{ header: unknown; ended: Promise<ServiceError> }> => {
        const call = client.get(request(`web.shop.${shop}:80`));
        closing.push(() => call.cancel());
        const ended = new Promise<ServiceError>((resolve) => {
          call.on('error', (error: ServiceError) => resolve(error));
        });
        call.resume();
        const header = await new Promise<unknown>((resolve) => {
          call.on('metadata', (metadata) => resolve(metadata.get('nodemesh-client-policy')[0]));
        });
        return { header, ended };
      };
      await start([service({}), testPod('web-1', { ips: ['10.1.0.1'] })]);
      const plain = await headersOf();
      assert.equal(plain.header, undefined);
      await cluster.apply(service({ 'balancer.linkerd.io/failure-accrual': 'consecutive' }));
      assert.equal((await plain.ended).code, status.UNAVAILABLE);
      const { header } = await headersOf();
      assert.equal(
        header,
        '{"accrual":{"maxFailures":7,"minPenaltyMs":1000,"maxPenaltyMs":60000,"jitterRatio":0.5}}',
      );
    });

    it("sends only endpoints of the requester's node for internalTrafficPolicy Local", async () => {
      await start([
        testService('web', { internalTrafficPolicy: 'Local' }),
        testPod('web-1', { ips: ['10.1.0.1'] }),
        testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }),
      ]);
      assert.deepEqual(told(await get(`web.shop.${shop}:80`).next()), ['+10.1.0.1/8080']);
    });

    it('a pod of a headless service by its host name', async () => {
      const spec = { hostname: 'db-0', subdomain: 'db' };
      await start([
        testService('db', { clusterIP: 'None', ports: [{ port: 5432 }] }),
        testPod('db-0', { ips: ['10.1.0.1'], spec }),
        testPod('db-1', { ips: ['10.1.0.2'], spec: { ...spec, hostname: 'db-1' } }),
      ]);
      assert.deepEqual(told(await get(`db-0.db.shop.${shop}:5432`).next()), ['+10.1.0.1/5432']);
    });

    it('the stream ends with NOT_FOUND when the service is deleted', async () => {
      const service = testService('web', {});
      await start([service, testPod('web-1', { ips: ['10.1.0.1'] })]);
      const inbox = get(`web.shop.${shop}:80`);
      await inbox.next();
      await cluster.delete(service);
      await assert.rejects(inbox.next(), (error: ServiceError) => error.code === status.NOT_FOUND);
    });

    const refused: readonly (readonly [string, string, status, RegExp])[] = [
      [
        'a service that does not exist',
        `none.shop.${shop}:80`,
        status.NOT_FOUND,
        /shop\/none does not exist/,
      ],
      ['an ExternalName', `away.shop.${shop}:80`, status.INVALID_ARGUMENT, /ExternalName/],
      ['an address', '10.1.0.1:80', status.INVALID_ARGUMENT, /IP queries not supported/],
      ['a name outside the cluster', 'example.org:80', status.INVALID_ARGUMENT, /does not end in/],
      ['a short name', 'web:80', status.INVALID_ARGUMENT, /does not end in/],
      ['a final dot', `web.shop.${shop}.:80`, status.INVALID_ARGUMENT, /does not end in/],
      ['port 0', `web.shop.${shop}:0`, status.INVALID_ARGUMENT, /not between/],
      ['port 65536', `web.shop.${shop}:65536`, status.INVALID_ARGUMENT, /not between/],
      ['nothing', '', status.INVALID_ARGUMENT, /Invalid authority/],
      ['a name with a slash', `a/b.shop.${shop}:80`, status.INVALID_ARGUMENT, /no name of a service/],
    ];
    it('refuses what is no service, with the reason', async () => {
      await start([
        testService('web', {}),
        testService('away', { type: 'ExternalName', externalName: 'x.org' }),
      ]);
      for (const [what, path, code, message] of refused) {
        await assert.rejects(get(path).next(), (error: ServiceError) => {
          assert.equal(error.code, code, what);
          assert.match(error.details, message, what);
          return true;
        });
      }
    });
  });

  describe('GetProfile', () => {
    it('of a ClusterIP names the service, with opaqueness by annotation, default list and appProtocol', async () => {
      const opaque = { 'config.linkerd.io/opaque-ports': '9000-9001' };
      await start([
        testService('web', { clusterIP: '10.96.0.1', ports: [{ port: 80 }, { port: 3306 }] }),
        testService('own', { clusterIP: '10.96.0.2', ports: [{ port: 9001 }, { port: 3306 }] }, opaque),
        testService('app', {
          clusterIP: '10.96.0.3',
          ports: [
            { port: 1, name: 'a', appProtocol: 'mysql' },
            { port: 3306, name: 'b', appProtocol: 'http' },
            { port: 80, name: 'c', appProtocol: 'linkerd.io/opaque' },
          ],
        }),
      ]);
      const table: readonly (readonly [string, string, boolean])[] = [
        ['10.96.0.1:80', `web.shop.${shop}`, false],
        ['10.96.0.1:3306', `web.shop.${shop}`, true],
        [`web.shop.${shop}:3306`, `web.shop.${shop}`, true],
        ['10.96.0.2:9001', `own.shop.${shop}`, true],
        ['10.96.0.2:3306', `own.shop.${shop}`, false],
        ['10.96.0.3:1', `app.shop.${shop}`, true],
        ['10.96.0.3:3306', `app.shop.${shop}`, false],
        ['10.96.0.3:80', `app.shop.${shop}`, true],
      ];
      for (const [path, name, isOpaque] of table) {
        const profile = await getProfile(path).next();
        assert.deepEqual([path, profile.fullyQualifiedName, profile.opaqueProtocol], [path, name, isOpaque]);
        assert.equal(profile.retryBudget?.minRetriesPerSecond, 10);
        assert.equal(profile.parentRef?.kind?.$case, 'resource');
      }
      const absent = await getProfile('10.96.0.1:81').next();
      assert.deepEqual(
        [absent.fullyQualifiedName, absent.endpoint, absent.retryBudget],
        ['', undefined, undefined],
      );
    });

    it('a port that the service does not have is nothing with a ServiceProfile either', async () => {
      await start([
        testService('web', { clusterIP: '10.96.0.1' }),
        testPod('web-1', { ips: ['10.1.0.1'] }),
        {
          apiVersion: 'linkerd.io/v1alpha2',
          kind: 'ServiceProfile',
          metadata: { name: `web.shop.${shop}`, namespace: 'shop', uid: 'uid-profile' },
          spec: { dstOverrides: [{ authority: `web.shop.${shop}`, weight: 1 }] },
        },
      ]);
      const declared = await getProfile('10.96.0.1:80').next();
      assert.deepEqual([declared.fullyQualifiedName, declared.dstOverrides.length], [`web.shop.${shop}`, 1]);
      const absent = await getProfile('10.96.0.1:81').next();
      assert.deepEqual(
        [absent.fullyQualifiedName, absent.dstOverrides, absent.endpoint],
        ['', [], undefined],
      );
    });

    it('of a pod address names the endpoint, of any other address nothing', async () => {
      await start([
        testPod('web-1', { ips: ['10.1.0.1', 'fd00::1'], ready: false }),
        testPod('host-1', { ips: ['10.1.0.9'], spec: { hostNetwork: true } }),
      ]);
      await enrol('web-1');
      for (const path of ['10.1.0.1:8080', '[fd00::1]:8080', '[::ffff:10.1.0.1]:8080']) {
        const { endpoint, fullyQualifiedName } = await getProfile(path).next();
        assert.equal(fullyQualifiedName, '');
        assert.equal(endpoint?.metricLabels['pod'], 'web-1');
        assert.equal(endpoint?.metricLabels['namespace'], 'shop');
        assert.notEqual(endpoint?.tlsIdentity, undefined);
      }
      for (const path of ['10.1.0.9:8080', '192.0.2.1:80']) {
        const { endpoint } = await getProfile(path).next();
        assert.equal(addressOf(endpoint), path.replace(':', '/'));
        assert.deepEqual(endpoint?.metricLabels, {});
        assert.equal(endpoint?.tlsIdentity, undefined);
      }
    });

    it('of a pod address heeds the pod, not what its services say of opaque ports and protocols', async () => {
      const ports = [
        { port: 80, targetPort: 8080, name: 'a' },
        { port: 8080, name: 'b' },
        { port: 7000, name: 'c', appProtocol: 'linkerd.io/opaque' },
        { port: 3306, name: 'd', appProtocol: 'http' },
      ];
      const opaque = { 'config.linkerd.io/opaque-ports': '80,8080' };
      await start([
        testService('web', { clusterIP: '10.96.0.1', ports }, opaque),
        testPod('web-1', { ips: ['10.1.0.1'] }),
        testPod('web-2', { ips: ['10.1.0.2'] }),
      ]);
      await enrol('web-1');
      for (const [port, isOpaque] of [
        [8080, false],
        [7000, false],
        // By the pod's own list, which begins as everybody's.
        [3306, true],
      ] as const) {
        assert.equal((await getProfile(`10.96.0.1:${port}`).next()).opaqueProtocol, !isOpaque);
        for (const ip of ['10.1.0.1', '10.1.0.2']) {
          const profile = await getProfile(`${ip}:${port}`).next();
          assert.equal(profile.opaqueProtocol, isOpaque, `${ip}:${port}`);
          assert.equal(profile.fullyQualifiedName, '');
          const { tlsIdentity, protocolHint } = profile.endpoint ?? {};
          const isMeshed = ip === '10.1.0.1';
          assert.equal(tlsIdentity !== undefined, isMeshed);
          assert.equal(protocolHint?.protocol?.$case, isMeshed ? (isOpaque ? 'opaque' : 'h2') : undefined);
        }
      }
    });

    it('follows a pod that comes and goes, and an address that becomes a service', async () => {
      await start([]);
      const inbox = getProfile('10.1.0.1:8080');
      assert.deepEqual((await inbox.next()).endpoint?.metricLabels, {});
      const pod = testPod('web-1', { ips: ['10.1.0.1'] });
      await cluster.apply(pod);
      assert.equal((await inbox.next()).endpoint?.metricLabels['pod'], 'web-1');
      await cluster.delete(pod);
      assert.deepEqual((await inbox.next()).endpoint?.metricLabels, {});
      await cluster.apply(testService('web', { clusterIP: '10.1.0.1', ports: [{ port: 8080 }] }));
      assert.equal((await inbox.next()).fullyQualifiedName, `web.shop.${shop}`);
      const opaque = { 'config.linkerd.io/opaque-ports': '8080' };
      await cluster.apply(testService('web', { clusterIP: '10.1.0.1', ports: [{ port: 8080 }] }, opaque));
      assert.equal((await inbox.next()).opaqueProtocol, true);
    });

    it('a change that concerns nobody sends nothing', async () => {
      await start([testPod('web-1', { ips: ['10.1.0.1'] })]);
      const inbox = getProfile('10.1.0.1:8080');
      await inbox.next();
      await cluster.apply(
        testPod('web-1', { ips: ['10.1.0.1'], metadata: { creationTimestamp: '2026-01-01T00:00:00Z' } }),
      );
      await cluster.apply(
        testPod('web-1', { ips: ['10.1.0.1'], annotations: { 'config.linkerd.io/opaque-ports': '8080' } }),
      );
      assert.equal((await inbox.next()).opaqueProtocol, true);
      assert.equal(inbox.pending, 0);
    });
  });

  it('a proxy may only ask for its own namespace', async () => {
    await start([
      testNamespace('bank', optedIn),
      testService('web', {}),
      testPod('web-1', { ips: ['10.1.0.1'] }),
    ]);
    await assert.rejects(get(`web.shop.${shop}:80`, { ns: 'bank' }).next(), (error: ServiceError) => {
      assert.equal(error.code, status.PERMISSION_DENIED);
      assert.match(error.details, /web\.shop.* asked for namespace "bank"/);
      return true;
    });
    assert.deepEqual(told(await get(`web.shop.${shop}:80`, { other: 1 }).next()), ['+10.1.0.1/8080']);
  });
});
