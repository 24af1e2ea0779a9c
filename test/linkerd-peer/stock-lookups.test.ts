// SPDX-License-Identifier: Apache-2.0
// What an agent makes of the answers of a stock Linkerd, whose destination and policy services are two servers with
// identities of their own.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import { createMeshChannel } from '#lib/grpc/client.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import { connectStockLinkerd, type LookupConnection } from '../../agent/node/destination-client.ts';
import { createDiscovery, type Discovery, type KnownDestination } from '../../agent/node/discovery.ts';
import type { Destination, Endpoint } from '../../agent/proxy/model.ts';
import { until } from '../proxy/harness.ts';
import { type Picture, type PictureOfPod, type PictureOfService, StockLinkerd } from './stock-linkerd.ts';

const HOST = '127.0.0.1';
const DESTINATION = 'linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local';
const POLICY = 'policy.elsewhere.serviceaccount.identity.linkerd.cluster.local';
const AGENT = 'nodemesh-agent.nodemesh.serviceaccount.identity.linkerd.cluster.local';
const WEB = 'web.shop.svc.cluster.local:80';

type ServiceDestination = Destination & { readonly kind: 'service' };

const pod = (name: string, ip: string, proxy = false): PictureOfPod => ({
  name,
  namespace: 'shop',
  account: 'web',
  ip,
  proxy,
});
const web: PictureOfService = {
  name: 'web',
  namespace: 'shop',
  clusterIp: '10.96.0.1',
  ports: [80],
  endpoints: ['web-1', 'web-2'],
};
const api: PictureOfService = { ...web, name: 'api', clusterIp: '10.96.0.2', endpoints: [] };
const pods = [pod('web-1', '10.1.0.1', true), pod('web-2', '10.1.0.2')];
const picture = (more: Partial<PictureOfService> = {}): Picture => ({
  pods,
  services: [{ ...web, ...more }, api],
});

describe('an agent that asks a stock Linkerd', () => {
  let authority: TestAuthority;
  let linkerd: StockLinkerd;
  let lookups: LookupConnection;
  let discovery: Discovery;
  const failures: string[] = [];

  const shownAs = async (identity: string) => {
    const { chainPem, keyPem } = await authority.leaf(identity);
    return { cert: chainPem, key: keyPem, anchorsPem: authority.anchorPem };
  };
  const start = async (
    shown: Picture,
    { policyName = POLICY, restored = [] as readonly KnownDestination[] } = {},
  ): Promise<void> => {
    authority = await makeTestAuthority();
    linkerd = new StockLinkerd(shown);
    const at = { host: HOST, port: 0 };
    const destinationPort = await linkerd.listen(await shownAs(DESTINATION), at, 'Destination/');
    const policyPort = await linkerd.listen(await shownAs(POLICY), at, 'OutboundPolicies/');
    const certificate = await authority.leaf(AGENT);
    const server = (port: number, serverIdentity: string) => ({
      address: `${HOST}:${port}`,
      channel: createMeshChannel({
        serverIdentity,
        material: () => ({ certificate, anchorsPem: authority.anchorPem }),
        onDialFailure: ({ error }) => failures.push(String(error)),
      }),
    });
    lookups = connectStockLinkerd(server(destinationPort, DESTINATION), server(policyPort, policyName));
    discovery = createDiscovery({
      client: lookups.destination,
      policies: lookups.policies,
      stock: true,
      nodeName: 'n1',
      localPods: () => undefined,
      clock: systemClock,
      random: Math.random,
      log: recordingLog(),
      restored,
    });
  };
  beforeEach(() => {
    failures.length = 0;
  });
  afterEach(async () => {
    discovery.close();
    lookups.close();
    await linkerd.close();
  });

  const watch = (ip: string, port = 80) => {
    const told: Destination[] = [];
    discovery.subscribe('key', { namespace: 'shop', ip, port }, (destination) => told.push(destination));
    return {
      told,
      one: (kind: Destination['kind']): Promise<Destination> =>
        until(() => told.at(-1)?.kind === kind && told.at(-1), `${kind} at ${ip}`),
      service: (fits: (service: ServiceDestination) => boolean): Promise<ServiceDestination> =>
        until(() => {
          const last = told.at(-1);
          return last?.kind === 'service' && fits(last) && last;
        }, `a service at ${ip}`),
    };
  };
  const endpointsOf = ({ endpoints }: ServiceDestination): unknown[] =>
    endpoints.map(({ ip, port, identity, inboundPort, http2 }) => ({
      ip,
      port,
      identity,
      inboundPort,
      http2,
    }));
  const plain = (ip: string) => ({
    ip,
    port: 80,
    identity: undefined,
    inboundPort: undefined,
    http2: undefined,
  });
  const withProxy = (ip: string) => ({
    ip,
    port: 80,
    identity: 'web.shop.serviceaccount.identity.linkerd.cluster.local',
    inboundPort: 4143,
    http2: true,
  });
  const resolved = (service: ServiceDestination): boolean => service.resolved;
  const having = (count: number) => (service: ServiceDestination) => service.endpoints.length === count;

  it('pods with Linkerd’s proxy are reached through it, all others in plain text', async () => {
    await start(picture());
    const service = await watch('10.96.0.1').service((one) => resolved(one) && having(2)(one));
    assert.deepEqual(endpointsOf(service), [withProxy('10.1.0.1'), plain('10.1.0.2')]);
    assert.equal(service.authority, WEB);
    const meshed = await watch('10.1.0.1').one('endpoint');
    assert.equal(meshed.kind === 'endpoint' && meshed.endpoint.inboundPort, 4143);
    const outside = await watch('10.1.0.2').one('endpoint');
    assert.equal(outside.kind === 'endpoint' && outside.endpoint.identity, undefined);
    await watch('192.0.2.1').one('unknown');
    // A port that the service does not have.
    await watch('10.96.0.1', 81).one('unknown');
  });

  it('an external workload is reached by its address and through a service with the identity that it proves', async () => {
    const external = { identity: 'spiffe://root.local/vm', serverName: 'vm.example' };
    const shown = { ...picture(), pods: [{ ...pod('web-1', '192.0.2.7', true), external }] };
    await start(shown);
    const seen = (endpoint: Endpoint | undefined) => [
      endpoint?.ip,
      endpoint?.identity,
      endpoint?.serverName,
      endpoint?.inboundPort,
    ];
    const wanted = ['192.0.2.7', external.identity, external.serverName, 4143];
    const service = await watch('10.96.0.1').service(resolved);
    assert.deepEqual(service.endpoints.map(seen), [wanted]);
    const alone = await watch('192.0.2.7').one('endpoint');
    assert.deepEqual(alone.kind === 'endpoint' && seen(alone.endpoint), wanted);
  });

  it('each server has an identity of its own; both see the agent’s', async () => {
    await start(picture());
    await watch('10.96.0.1').service((one) => resolved(one) && having(2)(one));
    assert.deepEqual(linkerd.calls.map(({ method, asked }) => `${method} ${asked}`).sort(), [
      `Destination/Get ${WEB}`,
      'Destination/GetProfile 10.96.0.1:80',
      `OutboundPolicies/Watch ${WEB}`,
    ]);
    for (const { client } of linkerd.calls) assert.equal(client, AGENT);
    assert.deepEqual(failures, []);
  });

  it('a server that proves another identity is asked nothing: the service stays unresolved', async () => {
    await start(picture(), { policyName: DESTINATION });
    const service = await watch('10.96.0.1').service(having(2));
    assert.equal(service.resolved, false);
    await until(() => failures.length > 0, 'a refused server');
    assert.match(failures[0] ?? '', /expected linkerd-destination\..* presented policy\.elsewhere\./);
    assert.ok(linkerd.calls.every(({ method }) => method !== 'OutboundPolicies/Watch'));
  });

  it('endpoints come and go by differences, and a new stream starts anew', async () => {
    await start(picture());
    const found = watch('10.96.0.1');
    await found.service(having(2));
    linkerd.show(picture({ endpoints: ['web-2'] }));
    assert.deepEqual(endpointsOf(await found.service(having(1))), [plain('10.1.0.2')]);
    linkerd.disconnect();
    // What happened meanwhile is in the first message of the next stream.
    linkerd.show({ ...picture({ endpoints: ['web-1'] }) });
    const again = await found.service(({ endpoints }) => endpoints[0]?.ip === '10.1.0.1');
    assert.deepEqual(endpointsOf(again), [withProxy('10.1.0.1')]);
  });

  it('a service without endpoints, of which Get says nothing, is known as one', async () => {
    await start(picture({ endpoints: [] }));
    const found = watch('10.96.0.1');
    assert.deepEqual(endpointsOf(await found.service(resolved)), []);
    linkerd.show(picture());
    await found.service(having(2));
    linkerd.show(picture({ endpoints: [] }));
    assert.equal((await found.service(having(0))).resolved, true);
  });

  it('what an earlier agent knew stays until Get has said something', async () => {
    const target = { namespace: 'shop', ip: '10.96.0.1', port: 80 };
    const endpoint = {
      ip: '10.1.0.2',
      port: 80,
      identity: undefined,
      inboundPort: undefined,
      weight: 1,
      labels: {},
      localPodUid: undefined,
    };
    const destination: Destination = {
      kind: 'service',
      authority: WEB,
      opaque: false,
      resolved: true,
      endpoints: [endpoint],
    };
    await start(picture({ endpoints: [] }), { restored: [{ target, destination }] });
    const found = watch('10.96.0.1');
    await until(() => linkerd.calls.some(({ method }) => method === 'OutboundPolicies/Watch'), 'the policy');
    assert.deepEqual(endpointsOf(await found.service(having(1))), [plain('10.1.0.2')]);
    linkerd.show(picture({ endpoints: ['web-1'] }));
    await found.service(({ endpoints }) => endpoints[0]?.ip === '10.1.0.1');
    assert.ok(found.told.every((one) => one.kind === 'service' && one.endpoints.length === 1));
  });

  it('limits, breakers and routes are those of the outbound policy, as they change', async () => {
    const to = 'api.shop.svc.cluster.local:80';
    await start(picture({ policy: { prefix: ['/api', to], requestTimeoutSeconds: 2, failuresMax: 7 } }));
    const found = watch('10.96.0.1');
    const service = await found.service(resolved);
    assert.deepEqual(service.accrual, {
      maxFailures: 7,
      minPenaltyMs: 1_000,
      maxPenaltyMs: 60_000,
      jitterRatio: 0,
    });
    const rules = service.routes?.routes[0]?.rules ?? [];
    assert.deepEqual(
      rules.map(({ backends, policy }) => [backends.map(({ authority }) => authority), policy]),
      [
        [[to], { timeouts: { requestMs: 2_000 } }],
        [[WEB], { timeouts: { requestMs: 2_000 } }],
      ],
    );
    linkerd.show(picture({ policy: {} }));
    const without = await found.service(({ accrual }) => accrual === undefined);
    assert.deepEqual(
      without.routes?.routes.map(({ reference }) => reference.name),
      ['http'],
    );
    assert.equal(without.endpoints.length, 2);
  });

  it('a service that the policy service does not know has no policy', async () => {
    await start(picture({ policy: false }));
    const found = watch('10.96.0.1');
    const service = await found.service((one) => resolved(one) && one.endpoints.length === 2);
    assert.equal(service.routes, undefined);
    linkerd.show(picture({ policy: { failuresMax: 3 } }));
    assert.equal((await found.service(({ accrual }) => accrual !== undefined)).routes?.invalid, undefined);
  });

  it('a port is opaque by its profile, and by its policy alone', async () => {
    await start(picture({ opaquePorts: [80] }));
    const found = watch('10.96.0.1');
    assert.equal((await found.service(resolved)).opaque, true);
    linkerd.show(picture());
    await found.service(({ opaque, routes }) => !opaque && routes !== undefined);
    linkerd.show(picture({ policy: { opaque: true } }));
    assert.equal((await found.service(({ opaque }) => opaque)).routes, undefined);
  });
});
