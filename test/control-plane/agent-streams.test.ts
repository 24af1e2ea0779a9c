// SPDX-License-Identifier: Apache-2.0
// The agent's node stream and discovery against the real destination service, over mesh TLS on loopback.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { systemClock, VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import { connectDestination, type DestinationConnection } from '../../agent/node/destination-client.ts';
import { createDiscovery, type Discovery, type DiscoveryOptions } from '../../agent/node/discovery.ts';
import { createNodeStream, type NodeStream } from '../../agent/node/node-stream.ts';
import type { NodeWorkload } from '../../agent/node/enrolment-model.ts';
import type { Destination } from '../../agent/proxy/model.ts';
import { optedIn, TestCluster, testNamespace, testPod, testService } from '../../destination/test-cluster.ts';

/** What happened, in order; `until` waits for a line. */
class Journal {
  readonly lines: string[] = [];
  #check: () => void = () => undefined;

  write(line: string): void {
    this.lines.push(line);
    this.#check();
  }

  /** Resolves once a line (after the first `from` ones) matches. */
  until(pattern: RegExp, from = 0): Promise<string> {
    return new Promise((resolve) => {
      this.#check = () => {
        const found = this.lines.slice(from).find((line) => pattern.test(line));
        if (found !== undefined) resolve(found);
      };
      this.#check();
    });
  }
}

describe("the agent's streams", () => {
  let cluster: TestCluster;
  let connection: DestinationConnection;
  let stream: NodeStream;
  let discovery: Discovery;
  const journal = { current: new Journal() };
  const workloads = new Map<string, NodeWorkload>();
  const localPods = new Map<string, string>();
  const log = recordingLog();

  const start = async (
    objects: readonly Readonly<Record<string, unknown>>[],
    options: Partial<DiscoveryOptions> = {},
  ): Promise<void> => {
    cluster = await TestCluster.start(objects);
    const told = journal.current;
    connection = connectDestination({ address: cluster.address, channel: await cluster.channel() });
    stream = createNodeStream({
      client: connection.node,
      nodeName: 'n1',
      cluster: 'local',
      version: '0.0.0',
      features: [],
      token: () => cluster.token(),
      handlers: {
        onWorkload(workload) {
          workloads.set(workload.pod.name, workload);
          told.write(`workload ${workload.pod.name} ${workload.enrol}`);
        },
        onRemoved: (uid) => told.write(`removed ${uid}`),
        onWithdrawn: () => undefined,
        onSnapshotEnd: () => told.write('snapshot end'),
        onNamespaces: (names) => told.write(`namespaces ${names.join(',')}`),
        onState: ({ state }) => told.write(state),
      },
      clock: systemClock,
      random: Math.random,
      log,
    });
    stream.setReporting(true);
    discovery = createDiscovery({
      client: connection.destination,
      policies: connection.policies,
      nodeName: 'n1',
      localPods: (ip) => localPods.get(ip),
      clock: systemClock,
      random: Math.random,
      log,
      ...options,
    });
  };

  beforeEach(() => {
    journal.current = new Journal();
    workloads.clear();
    localPods.clear();
  });
  afterEach(async () => {
    discovery.close();
    stream.close();
    connection.close();
    await cluster.close();
  });

  const summary = (destination: Destination): string => {
    if (destination.kind === 'unknown') return 'unknown';
    const of = (endpoints: readonly { ip: string; port: number; identity: string | undefined }[]): string =>
      endpoints
        .map(({ ip, port, identity }) => `${ip}/${port}${identity === undefined ? '' : ' secured'}`)
        .sort()
        .join(', ');
    const opaque = destination.opaque ? ' opaque' : '';
    return destination.kind === 'endpoint'
      ? `endpoint${opaque}: ${of([destination.endpoint])}`
      : `${destination.authority}${opaque} ${destination.resolved ? 'resolved' : 'waiting'}: ${of(destination.endpoints)}`;
  };

  const watch = (ip: string, port: number, namespace = 'shop') => {
    const told = new Journal();
    let last: Destination | undefined;
    const subscription = discovery.subscribe('key', { namespace, ip, port }, (destination) => {
      last = destination;
      told.write(summary(destination));
    });
    return {
      ...subscription,
      lines: told.lines,
      until: (pattern: RegExp, from?: number) => told.until(pattern, from),
      get last() {
        return last;
      },
    };
  };

  const enrolled = (name: string): void => {
    const workload = workloads.get(name);
    assert.ok(workload);
    stream.report(workload.pod.uid, 'enrolled', workload.pod.generation, 'Enrolled', '');
  };

  describe('node stream', () => {
    it('tells the snapshot as plain data, then changes', async () => {
      const annotations = {
        'config.linkerd.io/default-inbound-policy': 'cluster-authenticated',
        'config.linkerd.io/skip-inbound-ports': '9100',
      };
      await start([testPod('web-1', { ips: ['10.1.0.1'], annotations, labels: { app: 'web' } })]);
      const told = journal.current;
      await told.until(/snapshot end/);
      assert.deepEqual(told.lines, [
        'connecting',
        'connected',
        'workload agent-n1 false',
        'workload web-1 true',
        'namespaces shop',
        'snapshot end',
      ]);
      const web = workloads.get('web-1');
      assert.deepEqual(web?.redirection.skipInboundPorts, [
        { first: 4567, last: 4567 },
        { first: 4568, last: 4568 },
        { first: 9100, last: 9100 },
      ]);
      assert.deepEqual(web?.pod.policies.fallback, {
        protocol: 'detect',
        detectTimeoutMs: 10_000,
        labels: { srv_group: '', srv_kind: 'default', srv_name: 'cluster-authenticated' },
        authorizations: [
          {
            networks: ['10.0.0.0/8', '100.64.0.0/10', '172.16.0.0/12', '192.168.0.0/16', 'fd00::/8'].map(
              (net) => ({ net, except: [] }),
            ),
            authentication: { kind: 'tls', identities: [], suffixes: [''] },
            labels: { authz_group: '', authz_kind: 'default', authz_name: 'cluster-authenticated' },
            audit: false,
          },
        ],
      });
      assert.deepEqual(structuredClone(web), web);
      await cluster.apply(testNamespace('shop'));
      await told.until(/workload web-1 false/);
      await cluster.delete(testPod('web-1'));
      await told.until(/removed uid-web-1/);
    });

    it('after a reconnect it sweeps what is gone, tells nothing twice, and reports current states again', async () => {
      await start([testPod('web-1', { ips: ['10.1.0.1'] }), testPod('web-2', { ips: ['10.1.0.2'] })]);
      const told = journal.current;
      await told.until(/snapshot end/);
      const { port } = cluster;
      await cluster.disconnect();
      await told.until(/disconnected/);
      // Reported while away.
      enrolled('web-2');
      await cluster.delete(testPod('web-1'));
      await cluster.settled();
      const from = told.lines.length;
      await cluster.listen(port);
      await told.until(/snapshot end/, from);
      const news = told.lines
        .slice(from)
        .filter((line) => !line.endsWith('connected') && line !== 'connecting');
      assert.deepEqual(news, ['namespaces shop', 'removed uid-web-1', 'snapshot end']);
      await new Promise<void>((resolve) => {
        const check = (pod: {
          status: { conditions: readonly { type: string; status: string }[] };
        }): void => {
          if (
            pod.status.conditions.some((one) => one.type === 'nodemesh.io/Enrolled' && one.status === 'True')
          )
            resolve();
        };
        cluster.registry.watch('Pod', { added: check, changed: check, removed: () => undefined });
      });
    });
  });

  describe('discovery', () => {
    const web = testService('web', { clusterIP: '10.96.0.1' });

    it('follows a service through its life; enrolment and files change endpoints at once', async () => {
      await start([web, testPod('web-1', { ips: ['10.1.0.1'] })]);
      const found = watch('10.96.0.1', 80);
      assert.equal(await found.until(/resolved/), 'web.shop.svc.cluster.local:80 resolved: 10.1.0.1/8080');
      await journal.current.until(/snapshot end/);
      localPods.set('10.1.0.1', 'uid-web-1');
      enrolled('web-1');
      await found.until(/secured/);
      assert.equal(found.last?.kind, 'service');
      assert.deepEqual(found.last.endpoints, [
        {
          ip: '10.1.0.1',
          port: 8080,
          identity: 'default.shop.serviceaccount.identity.linkerd.cluster.local',
          inboundPort: 4143,
          weight: 10_000,
          labels: {
            namespace: 'shop',
            service: 'web',
            pod: 'web-1',
            serviceaccount: 'default',
            control_plane_ns: 'linkerd',
            zone: 'zone-n1',
            zone_locality: 'local',
          },
          localPodUid: 'uid-web-1',
        },
      ]);
      await cluster.apply(testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }));
      await found.until(/10\.1\.0\.1\/8080 secured, 10\.1\.0\.2\/8080$/);
      localPods.clear();
      discovery.localPodsChanged();
      await cluster.delete(testPod('web-1'));
      await found.until(/resolved: 10\.1\.0\.2\/8080$/);
      await cluster.delete(testPod('web-2'));
      await found.until(/resolved: $/);
      await cluster.delete(web);
      await found.until(/^unknown$/);
    });

    it('resolves a service without endpoints to none', async () => {
      await start([web, testPod('other-1', { ips: ['10.1.0.1'] })]);
      assert.equal(
        await watch('10.96.0.1', 80).until(/resolved/),
        'web.shop.svc.cluster.local:80 resolved: ',
      );
    });

    it('knows pods by their address, and what is neither pod nor service', async () => {
      await start([
        testPod('db-1', {
          ips: ['10.1.0.1', 'fd00::1'],
          annotations: { 'config.linkerd.io/opaque-ports': '7000' },
        }),
        web,
      ]);
      await journal.current.until(/snapshot end/);
      enrolled('db-1');
      await watch('10.1.0.1', 7000).until(/^endpoint opaque: 10\.1\.0\.1\/7000 secured/);
      await watch('fd00::1', 80).until(/^endpoint: fd00::1\/80 secured/);
      await watch('192.0.2.1', 80).until(/^unknown$/);
      // A port that the service does not have.
      await watch('10.96.0.1', 81).until(/^unknown$/);
    });

    it('says nothing while destination has not answered, and keeps the last answer while it is away', async () => {
      await start([web, testPod('web-1', { ips: ['10.1.0.1'] })]);
      const early = watch('10.96.0.1', 80);
      await early.until(/resolved: 10/);
      const { port } = cluster;
      await cluster.disconnect();
      await journal.current.until(/disconnected/);
      const late = watch('10.1.0.1', 8080);
      const again = watch('10.96.0.1', 80);
      await again.until(/resolved: 10/);
      await cluster.delete(testPod('web-1'));
      await cluster.apply(testPod('web-2', { ips: ['10.1.0.2'] }));
      await cluster.settled();
      assert.deepEqual(late.lines, []);
      assert.match(early.lines.at(-1) ?? '', /10\.1\.0\.1/);
      await cluster.listen(port);
      await early.until(/resolved: 10\.1\.0\.2\/8080$/);
      assert.ok(!early.lines.some((line) => line.endsWith('resolved: ')), 'no flap to none');
      await late.until(/^unknown$/);
    });

    it('an empty service after an outage does not keep endpoints that are gone', async () => {
      await start([web, testPod('web-1', { ips: ['10.1.0.1'] }), testPod('other-1', { ips: ['10.1.0.2'] })]);
      const found = watch('10.96.0.1', 80);
      await found.until(/resolved: 10/);
      const { port } = cluster;
      await cluster.disconnect();
      await cluster.delete(testPod('web-1'));
      await cluster.settled();
      await cluster.listen(port);
      await found.until(/resolved: $/);
    });

    it('shares streams by client namespace and address, and closes them a while after the last use', async () => {
      const clock = new VirtualClock();
      await start(
        [
          testService('web', { clusterIPs: ['10.96.0.1', '10.96.0.2'] }),
          testNamespace('bank', optedIn),
          testPod('web-1', { ips: ['10.1.0.1'] }),
          testPod('teller-1', { ips: ['10.1.0.2'], namespace: 'bank' }),
        ],
        { clock },
      );
      const all = [
        watch('10.96.0.1', 80),
        watch('10.96.0.1', 80),
        watch('10.96.0.2', 80),
        watch('10.96.0.1', 80, 'bank'),
      ];
      for (const one of all) await one.until(/resolved: 10/);
      // Two addresses of one service share its endpoints; another namespace does not.
      assert.deepEqual(discovery.streams, { profiles: 3, services: 2 });
      for (const one of all) one.close();
      clock.advance(4_999);
      assert.deepEqual(discovery.streams, { profiles: 3, services: 2 });
      const again = watch('10.96.0.2', 80);
      clock.advance(10_001);
      assert.deepEqual(discovery.streams, { profiles: 1, services: 1 });
      await again.until(/resolved: 10/);
      again.close();
      clock.advance(5_000);
      clock.advance(5_000);
      assert.deepEqual(discovery.streams, { profiles: 0, services: 0 });
    });

    it('beyond its limit a new destination is not resolved, and unused ones make room', async () => {
      const clock = new VirtualClock();
      await start([testPod('web-1', { ips: ['10.1.0.1'] })], { clock, lookupsMax: 2 });
      const [a, b] = [watch('10.1.0.1', 1), watch('10.1.0.1', 2)];
      const refused = watch('10.1.0.1', 3);
      await a.until(/endpoint/);
      await b.until(/endpoint/);
      assert.deepEqual(refused.lines, []);
      assert.ok(log.lines.some((line) => line.message.startsWith('too many destinations')));
      a.close();
      await watch('10.1.0.1', 3).until(/endpoint/);
      assert.deepEqual(discovery.streams, { profiles: 2, services: 0 });
    });
  });
});
