// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Channel, type ClientDuplexStream, type ServiceError, status } from '@grpc/grpc-js';
import { DestinationClient, type Update } from '#lib/proto/gen/linkerd/destination.ts';
import {
  EnrolmentState,
  type FromNode,
  type Hello,
  NodeServiceClient,
  type ToNode,
  type Workload,
} from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { makeTokenKey, signLocalToken } from '#lib/registry-folder/token-signer.ts';
import {
  agentIdentity,
  Inbox,
  optedIn,
  TestCluster,
  testNamespace,
  testPod,
  testService,
} from './test-cluster.ts';

interface NodeClient {
  readonly call: ClientDuplexStream<FromNode, ToNode>;
  readonly inbox: Inbox<ToNode>;
  readonly destination: DestinationClient;
}

describe('node stream', () => {
  let cluster: TestCluster;
  let closing: (() => void)[] = [];
  beforeEach(() => {
    closing = [];
  });
  afterEach(async () => {
    for (const close of closing) close();
    await cluster.close();
  });

  const hello = (change: Partial<Hello> = {}, token = cluster.token()): FromNode => ({
    message: {
      $case: 'hello',
      hello: {
        nodeName: 'n1',
        instanceId: 'instance',
        version: '0.0.0',
        features: [],
        token: Buffer.from(token),
        cluster: 'local',
        ...change,
      },
    },
  });

  const open = async (first: FromNode | undefined, identity = agentIdentity): Promise<NodeClient> => {
    const mesh = await cluster.channel(identity);
    const channelOverride = new Channel(cluster.address, mesh.credentials, mesh.options);
    const call = new NodeServiceClient(cluster.address, mesh.credentials, { channelOverride }).connect();
    const destination = new DestinationClient(cluster.address, mesh.credentials, { channelOverride });
    const inbox = new Inbox<ToNode>(call);
    closing.push(() => {
      call.cancel();
      channelOverride.close();
    });
    if (first !== undefined) call.write(first);
    return { call, inbox, destination };
  };

  const nextWorkload = async ({ inbox }: NodeClient): Promise<Workload> => {
    const { message } = await inbox.next();
    assert.equal(message?.$case, 'workload');
    return message.workload;
  };

  /** The workloads up to the snapshot's end, by name. */
  const snapshot = async ({ inbox }: NodeClient) => {
    const workloads = new Map<string, Workload>();
    let namespaces: readonly string[] = [];
    const welcome = await inbox.next();
    assert.equal(welcome.message?.$case, 'welcome');
    for (;;) {
      const { message } = await inbox.next();
      if (message?.$case === 'snapshotEnd')
        return { workloads, namespaces, welcome: welcome.message.welcome };
      if (message?.$case === 'workload') workloads.set(message.workload.name, message.workload);
      if (message?.$case === 'enrolledNamespaces') namespaces = message.enrolledNamespaces.names;
    }
  };

  const report = (
    client: NodeClient,
    workload: Workload,
    sequence: number,
    change: { state?: EnrolmentState; generation?: bigint; uid?: string } = {},
  ): void => {
    const fields = {
      cluster: 'local',
      uid: workload.uid,
      state: EnrolmentState.ENROLMENT_STATE_ENROLLED,
      generation: workload.generation,
      reason: 'Test',
      message: 'a message',
      sequence: BigInt(sequence),
      ...change,
    };
    client.call.write({ message: { $case: 'report', report: fields } });
  };

  it('sends a snapshot of the node alone, with effective configuration and policy, and its end', async () => {
    cluster = await TestCluster.start([
      testNamespace('plain'),
      testNamespace('kube-system', optedIn),
      testPod('web-1', {
        ips: ['10.1.0.1', 'fd00::1'],
        serviceAccount: 'web',
        annotations: {
          'config.linkerd.io/default-inbound-policy': 'deny',
          'config.linkerd.io/opaque-ports': '5000,http',
        },
        spec: {
          containers: [
            {
              name: 'main',
              ports: [{ name: 'http', containerPort: 8080 }],
              readinessProbe: { httpGet: { port: 'http', path: '/ready?x=1' } },
              livenessProbe: { grpc: { port: 9000 } },
            },
          ],
        },
      }),
      testPod('host-1', { spec: { hostNetwork: true } }),
      testPod('plain-1', { namespace: 'plain', ips: ['10.1.0.3'] }),
      testPod('web-2', { node: 'n2', ips: ['10.1.0.2'] }),
    ]);
    const { workloads, namespaces, welcome } = await snapshot(await open(hello()));
    assert.deepEqual([...workloads.keys()].sort(), ['agent-n1', 'host-1', 'plain-1', 'web-1']);
    assert.deepEqual(namespaces, ['shop']);
    assert.deepEqual([welcome.cluster, welcome.trustDomain], ['local', 'cluster.local']);
    const web = workloads.get('web-1');
    assert.equal(web?.enrol, true);
    assert.equal(web.identity, 'web.shop.serviceaccount.identity.linkerd.cluster.local');
    assert.deepEqual(web.addresses, ['10.1.0.1', 'fd00::1']);
    assert.equal(web.zone, 'zone-n1');
    assert.deepEqual(web.defaultServer?.authorizations, []);
    assert.deepEqual(web.defaultServer?.labels, { group: '', kind: 'default', name: 'deny' });
    assert.deepEqual(Object.keys(web.servers), ['5000', '8080']);
    assert.equal(web.servers[8080]?.protocol?.kind?.$case, 'opaque');
    assert.deepEqual(web.probes, [
      { port: 9000, method: 'POST', path: '/grpc.health.v1.Health/Check' },
      { port: 8080, method: 'GET', path: '/ready' },
    ]);
    assert.match(workloads.get('host-1')?.notEnrolledReason ?? '', /hostNetwork/);
    assert.match(workloads.get('plain-1')?.notEnrolledReason ?? '', /linkerd\.io\/inject/);
  });

  it('then sends changes; the generation changes with content only', async () => {
    cluster = await TestCluster.start([testPod('web-1', { ips: ['10.1.0.1'] })]);
    const client = await open(hello());
    const first = (await snapshot(client)).workloads.get('web-1');
    // Readiness is no part of a workload.
    await cluster.apply(testPod('web-1', { ips: ['10.1.0.1'], ready: false }));
    const annotations = { 'config.linkerd.io/opaque-ports': '1' };
    await cluster.apply(testPod('web-1', { ips: ['10.1.0.1'], annotations }));
    const second = await nextWorkload(client);
    assert.deepEqual(second.config?.opaquePorts, [{ first: 1, last: 1 }]);
    assert.notEqual(second.generation, first?.generation);
    await cluster.apply(testPod('web-1', { ips: ['10.1.0.1'] }));
    assert.equal((await nextWorkload(client)).generation, first?.generation);
    await cluster.apply(testNamespace('shop'));
    const optedOut = await nextWorkload(client);
    assert.equal(optedOut.enrol, false);
    const namespaces = await client.inbox.next();
    assert.deepEqual(namespaces.message, { $case: 'enrolledNamespaces', enrolledNamespaces: { names: [] } });
    await cluster.delete(testPod('web-1'));
    const removed = await client.inbox.next();
    assert.deepEqual(removed.message, { $case: 'removed', removed: { cluster: 'local', uid: 'uid-web-1' } });
  });

  it('two agents of one node get the same generations', async () => {
    cluster = await TestCluster.start([testPod('web-1', { ips: ['10.1.0.1'] })]);
    const [a, b] = await Promise.all([open(hello()), open(hello({ instanceId: 'successor' }))]);
    const generation = async (client: NodeClient) =>
      (await snapshot(client)).workloads.get('web-1')?.generation;
    assert.equal(await generation(a), await generation(b));
  });

  interface WrittenState {
    readonly condition: { readonly status: string; readonly observedGeneration: number };
    readonly events: readonly { readonly reason: string }[];
  }

  /** What is on disk of pod web-1, once it says `status`: it is written beside what streams are told. */
  async function writtenState(status_: string): Promise<WrittenState> {
    for (;;) {
      const text = await readFile(join(cluster.folder, '.status', 'uid-web-1.json'), 'utf8').catch(() => '');
      const state = text === '' ? undefined : (JSON.parse(text) as WrittenState);
      if (state?.condition.status === status_) return state;
      await delay(10);
    }
  }

  it('endpoints follow what the agent reports, and only that', async () => {
    cluster = await TestCluster.start([testService('web', {}), testPod('web-1', { ips: ['10.1.0.1'] })]);
    const client = await open(hello());
    const web = (await snapshot(client)).workloads.get('web-1');
    assert.ok(web);
    const path = 'web.shop.svc.cluster.local:80';
    const call = client.destination.get({ scheme: '', path, contextToken: '{"ns":"shop","nodeName":"n1"}' });
    closing.push(() => call.cancel());
    const updates = new Inbox<Update>(call);
    const secured = async (): Promise<boolean> => {
      const { update } = await updates.next();
      assert.equal(update?.$case, 'add');
      return update.add.addrs[0]?.tlsIdentity !== undefined;
    };
    assert.equal(await secured(), false);
    report(client, web, 1, { state: EnrolmentState.ENROLMENT_STATE_PENDING });
    report(client, web, 2);
    assert.equal(await secured(), true);
    assert.equal((await writtenState('True')).condition.observedGeneration, Number(web.generation));
    report(client, web, 3, { state: EnrolmentState.ENROLMENT_STATE_LEAVING });
    assert.equal(await secured(), false);
  });

  it('endpoints are said to take HTTP/1 over HTTP/2 when their agent does', async () => {
    cluster = await TestCluster.start([testService('web', {}), testPod('web-1', { ips: ['10.1.0.1'] })]);
    const path = 'web.shop.svc.cluster.local:80';
    for (const features of [['something'], ['something', 'http2'], []]) {
      const client = await open(hello({ features, instanceId: `with ${features.join()}` }));
      const web = (await snapshot(client)).workloads.get('web-1');
      assert.ok(web);
      const call = client.destination.get({
        scheme: '',
        path,
        contextToken: '{"ns":"shop","nodeName":"n1"}',
      });
      closing.push(() => call.cancel());
      const updates = new Inbox<Update>(call);
      report(client, web, 1);
      for (;;) {
        const { update } = await updates.next();
        assert.equal(update?.$case, 'add');
        const hint = update.add.addrs[0]?.protocolHint;
        if (hint !== undefined && (hint.protocol?.$case === 'h2') === features.includes('http2')) break;
      }
    }
  });

  it('answers "leaving" once its own watch shows the pod as withdrawn, and only then', async () => {
    cluster = await TestCluster.start([testPod('web-1', { ips: ['10.1.0.1'] })]);
    const client = await open(hello());
    const web = (await snapshot(client)).workloads.get('web-1');
    assert.ok(web);
    report(client, web, 1);
    report(client, web, 2, { state: EnrolmentState.ENROLMENT_STATE_LEAVING });
    const { message } = await client.inbox.next();
    assert.deepEqual(message, { $case: 'withdrawn', withdrawn: { cluster: 'local', uid: web.uid } });
    const file = await writtenState('False');
    assert.ok(file.events.some(({ reason }) => reason === 'MeshLeaving'));
    // Another agent process says it again: nothing is left to withdraw.
    const second = await open(hello({ instanceId: 'second' }));
    const again = (await snapshot(second)).workloads.get('web-1');
    assert.ok(again);
    report(second, again, 1, { state: EnrolmentState.ENROLMENT_STATE_LEAVING });
    assert.equal((await second.inbox.next()).message?.$case, 'withdrawn');
  });

  it('a late report, one for an older generation and one about a foreign pod change nothing', async () => {
    cluster = await TestCluster.start([
      testService('web', {}),
      testPod('web-1', { ips: ['10.1.0.1'] }),
      testPod('web-2', { ips: ['10.1.0.2'], node: 'n2' }),
    ]);
    const client = await open(hello());
    const web = (await snapshot(client)).workloads.get('web-1');
    assert.ok(web);
    const states: string[] = [];
    const written = new Promise<void>((resolve) => {
      cluster.registry.watch('Pod', {
        added: () => undefined,
        changed: (pod) => {
          const condition = pod.status.conditions.find(({ type }) => type === 'nodemesh.io/Enrolled');
          states.push(`${pod.metadata.name} ${condition?.status} ${condition?.observedGeneration}`);
          if (condition?.status === 'False') resolve();
        },
        removed: () => undefined,
      });
    });
    report(client, web, 5, { uid: 'uid-web-2' });
    report(client, web, 6, { generation: web.generation + 1n });
    report(client, web, 8, { state: EnrolmentState.ENROLMENT_STATE_FAILED });
    report(client, web, 7);
    report(client, web, 8);
    await written;
    assert.deepEqual(states, [`web-1 False ${web.generation}`]);
    const refused = cluster.log.lines.find((line) => line.message.includes('not on the node'));
    assert.deepEqual(refused?.fields, { node: 'n1', uid: 'uid-web-2' });
  });

  it('a report that comes before its generation is acted on when the workload gets there', async () => {
    cluster = await TestCluster.start([testPod('web-1', { ips: ['10.1.0.1'] })]);
    const client = await open(hello());
    const first = (await snapshot(client)).workloads.get('web-1');
    const annotations = { 'config.linkerd.io/opaque-ports': '1' };
    await cluster.apply(testPod('web-1', { ips: ['10.1.0.1'], annotations }));
    const second = await nextWorkload(client);
    assert.ok(first);
    report(client, first, 1);
    report(client, second, 2, { uid: 'uid-none' });
    const enrolled = new Promise<number | undefined>((resolve) => {
      cluster.registry.watch('Pod', {
        added: () => undefined,
        changed: (pod) => {
          const condition = pod.status.conditions.find(({ type }) => type === 'nodemesh.io/Enrolled');
          if (condition?.status === 'True') resolve(condition.observedGeneration);
        },
        removed: () => undefined,
      });
    });
    await cluster.apply(testPod('web-1', { ips: ['10.1.0.1'] }));
    assert.equal(await enrolled, Number(first.generation));
  });

  it('refuses whoever may not speak for the node, naming who and why', async () => {
    cluster = await TestCluster.start([testPod('web-1', { ips: ['10.1.0.1'] })]);
    const pod = { name: 'agent-n1', uid: 'uid-agent-n1' };
    const claims = {
      namespace: 'nodemesh',
      serviceAccount: { name: 'nodemesh-agent', uid: 'uid-sa' },
      audiences: ['destination.nodemesh.io/node'],
      issuedAtMs: Date.now(),
      lifetimeMs: 60_000,
    };
    const node = { name: 'n1', uid: 'uid-n1' };
    const foreign = signLocalToken({ ...claims, pod, node }, makeTokenKey().privateKeyPem);
    const table: readonly (readonly [string, () => Promise<NodeClient>, status, RegExp])[] = [
      [
        'the identity of a pod',
        () => open(hello(), 'web.shop.serviceaccount.identity.linkerd.cluster.local'),
        status.PERMISSION_DENIED,
        /web\.shop\.serviceaccount.* refused: only nodemesh-agent/,
      ],
      [
        "another node's name",
        () => open(hello({ nodeName: 'n2' })),
        status.PERMISSION_DENIED,
        /stream for "n2".*bound to node "n1"/,
      ],
      [
        'an unknown node',
        () => open(hello({ nodeName: 'n9' })),
        status.PERMISSION_DENIED,
        /bound to node "n1"/,
      ],
      ['no node', () => open(hello({ nodeName: '' })), status.INVALID_ARGUMENT, /names no node/],
      [
        'another cluster',
        () => open(hello({ cluster: 'west' })),
        status.PERMISSION_DENIED,
        /cluster local, not west/,
      ],
      ['no token', () => open(hello({}, '')), status.UNAUTHENTICATED, /stream for "n1"/],
      ['a token of another signer', () => open(hello({}, foreign)), status.UNAUTHENTICATED, /sign/],
      [
        'a token for Certify',
        () => open(hello({}, cluster.token('n1', { audiences: ['identity.nodemesh.io/agent'] }))),
        status.UNAUTHENTICATED,
        /audience/,
      ],
      [
        'a token of a pod that is gone',
        () => open(hello({}, cluster.token('n1', { pod: { name: 'agent-n1', uid: 'earlier' } }))),
        status.UNAUTHENTICATED,
        /agent-n1/,
      ],
      [
        'a token that names no pod',
        () => open(hello({}, cluster.sign(claims))),
        status.PERMISSION_DENIED,
        /not bound to a pod/,
      ],
      [
        'a pod of node n2 in a token for n1',
        () => open(hello({}, cluster.token('n1', { pod: { name: 'agent-n2', uid: 'uid-agent-n2' } }))),
        status.PERMISSION_DENIED,
        /agent-n2.* runs on node "n2"/,
      ],
    ];
    for (const [what, attempt, code, message] of table) {
      const { inbox } = await attempt();
      await assert.rejects(inbox.next(), (error: ServiceError) => {
        assert.equal(status[error.code], status[code], `${what}: ${error.details}`);
        assert.match(error.details, message, what);
        return true;
      });
    }
    const told = cluster.log.lines.filter((line) => line.message === 'call refused');
    assert.equal(told.length, table.length);
  });

  it('refuses a stream that does not begin with Hello, or says it twice', async () => {
    cluster = await TestCluster.start();
    const facts: FromNode = { message: { $case: 'facts', facts: { facts: {} } } };
    await assert.rejects(
      (await open(facts)).inbox.next(),
      (error: ServiceError) => error.code === status.FAILED_PRECONDITION,
    );
    const twice = await open(hello());
    await snapshot(twice);
    twice.call.write(hello());
    await assert.rejects(twice.inbox.next(), /Hello comes once/);
  });

  it('ends when the pod of its token is gone', async () => {
    cluster = await TestCluster.start();
    const client = await open(hello());
    await snapshot(client);
    await cluster.delete(testPod('agent-n1', { namespace: 'nodemesh' }));
    await assert.rejects(client.inbox.next(), (error: ServiceError) => {
      assert.equal(error.code, status.PERMISSION_DENIED);
      assert.match(error.details, /nodemesh\/agent-n1 of this stream's token is gone/);
      return true;
    });
  });

  it('an agent looks things up for pods of its own node alone', async () => {
    cluster = await TestCluster.start([
      testService('web', {}),
      testNamespace('bank', optedIn),
      testPod('web-1', { ips: ['10.1.0.1'] }),
      testPod('teller-1', { ips: ['10.1.0.2'], node: 'n2', namespace: 'bank' }),
    ]);
    const client = await open(hello());
    await snapshot(client);
    const ask = (token: object): Promise<Update> => {
      const path = 'web.shop.svc.cluster.local:80';
      const call = client.destination.get({ scheme: '', path, contextToken: JSON.stringify(token) });
      closing.push(() => call.cancel());
      return new Inbox<Update>(call).next();
    };
    const allowed = [
      { ns: 'shop', nodeName: 'n1' },
      { ns: 'shop', nodeName: 'n1', pod: 'web-1' },
    ];
    for (const token of allowed) assert.equal((await ask(token)).update?.$case, 'add');
    const refused = [
      { ns: 'shop', nodeName: 'n2' },
      { ns: 'bank', nodeName: 'n1' },
      { ns: 'bank', nodeName: 'n1', pod: 'teller-1' },
      { ns: 'shop', nodeName: 'n1', pod: 'none' },
      {},
    ];
    for (const token of refused) {
      await assert.rejects(ask(token), (error: ServiceError) => {
        assert.equal(error.code, status.PERMISSION_DENIED, JSON.stringify(token));
        assert.match(error.details, /the agent of node n1 asked for/);
        return true;
      });
    }
  });

  it('writes Events on pods that asked for the mesh and cannot have it, or have wrong annotations', async () => {
    cluster = await TestCluster.start([testPod('host-1', { spec: { hostNetwork: true } })]);
    await cluster.apply(
      testPod('web-1', { annotations: { 'config.linkerd.io/default-inbound-policy': 'denny' } }),
    );
    const events = async (uid: string): Promise<string[]> => {
      for (;;) {
        try {
          const text = await readFile(join(cluster.folder, '.status', `${uid}.json`), 'utf8');
          return (JSON.parse(text) as { events: { reason: string; message: string }[] }).events.map(
            ({ reason, message }) => `${reason}: ${message}`,
          );
        } catch {
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
    };
    assert.match((await events('uid-host-1')).join(), /^MeshNotPossible: Not meshed: .*hostNetwork/);
    assert.match((await events('uid-web-1')).join(), /^MeshConfigInvalid: .*default-inbound-policy="denny"/);
  });
});
