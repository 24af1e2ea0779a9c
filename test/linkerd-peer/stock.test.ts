// SPDX-License-Identifier: Apache-2.0
// Pods under agents that ask a stock Linkerd for endpoints, profiles and outbound policies, while certificates and
// inbound policies are ours: pods with Linkerd's proxy are reached through it, pods under agents, which it does not know
// as meshed, in plain text.

import assert from 'node:assert/strict';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { scrape } from '../e2e/scrape.ts';
import { until } from '../faults/until.ts';
import { hostOf, identity, peer, program, servicesOf } from './pods.ts';
import type { Picture, PictureOfPolicy } from './stock-linkerd.ts';
import { ports, type Protocol } from './talk.ts';

type Heard = Readonly<Record<Protocol, string>>;

const LINKERD = 'linkerd-destination';
const WAIT_MS = 30_000;
/** What a gateway is asked for. */
const FAR = 'web.far.svc.cluster.local:9090';

/** The picture knows no other addresses. */
const onlyIpv4 = (name: string) => {
  const service = servicesOf(name);
  return { ...service, spec: { ...service.spec, ipFamilies: ['IPv4'] } };
};

describe('pods under agents that ask a stock Linkerd', () => {
  let mesh: LocalMesh;
  let folder: string;
  let picture: Picture = { pods: [], services: [] };

  const show = (policy: PictureOfPolicy = {}): void => {
    const services = picture.services.map((one) => (one.name === 'server' ? { ...one, policy } : one));
    const file = join(folder, 'cluster.json');
    writeFileSync(`${file}.new`, JSON.stringify({ ...picture, services }));
    renameSync(`${file}.new`, file);
  };
  const pictured = async (name: string, proxy: boolean) => {
    const found = (await mesh.pods('shop')).find(({ metadata }) => metadata.name === name);
    const service = (await mesh.list('Service', 'shop')).find(({ metadata }) => metadata.name === name);
    const { clusterIP = '' } = service?.spec ?? {};
    return {
      pod: { name, namespace: 'shop', account: name, ip: found?.status.podIP ?? '', proxy },
      service: {
        name,
        namespace: 'shop',
        clusterIp: clusterIP,
        ports: Object.values(ports),
        opaquePorts: [ports.tcp],
        endpoints: [name],
      },
    };
  };

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-stock-'));
    const leaf = await (await makeTestAuthority()).leaf('application.example');
    const pem = join(folder, 'tls.pem');
    writeFileSync(pem, leaf.keyPem + leaf.chainPem);
    show();
    mesh = await startMesh({
      name: 'p-stock',
      objects: [
        namespace('shop', meshed),
        namespace('linkerd'),
        serviceAccount('linkerd', LINKERD),
        ...['server', 'client', 'peer-server'].map((name) => serviceAccount('shop', name)),
        pod('shop', 'server', [process.execPath, program('application.ts'), 'serve', pem], {
          node: 'node1',
          account: 'server',
          readinessPort: ports.tls,
        }),
        pod('shop', 'client', [], { node: 'node2', account: 'client' }),
        peer('peer-server', 'node1', [program('peer-server.ts')]),
        peer(LINKERD, 'node1', [program('stock-server.ts'), join(folder, 'cluster.json')], {
          namespace: 'linkerd',
          readinessPort: 8090,
        }),
        ...['server', 'peer-server', 'far'].map(onlyIpv4),
      ],
    });
    await mesh.waitReady();
    const known = [await pictured('server', false), await pictured('peer-server', true)];
    const far = {
      ...(await pictured('far', false)).service,
      endpoints: ['peer-server'],
      gateway: { identity: identity('peer-server'), authority: FAR },
    };
    picture = { pods: known.map((one) => one.pod), services: [...known.map((one) => one.service), far] };
    show();
    const { podIP } = (await mesh.pod(LINKERD, 'linkerd')).status;
    const env = {
      NODEMESH_LINKERD_DESTINATION_ADDRESS: `${podIP}:8086`,
      NODEMESH_LINKERD_DESTINATION_NAME: identity(LINKERD, 'linkerd'),
      NODEMESH_LINKERD_POLICY_ADDRESS: `${podIP}:8090`,
      NODEMESH_LINKERD_POLICY_NAME: identity(LINKERD, 'linkerd'),
    };
    for (const name of ['node1', 'node2']) {
      await mesh.node(name).stopAgent();
      await mesh.node(name).startAgent({ env });
    }
  });
  after(async () => {
    await mesh?.down();
    rmSync(folder, { recursive: true });
  });

  const call = async (to: string): Promise<Heard> => {
    const argv = [process.execPath, program('application.ts'), 'call', hostOf(to)];
    const { stdout, stderr } = await mesh.exec('client', argv, { ns: 'shop' });
    assert.notEqual(stdout, '', stderr);
    return JSON.parse(stdout) as Heard;
  };
  const answer = (text: string): Readonly<Record<string, unknown>> => {
    assert.match(text, /^200 .*\{/, text);
    return JSON.parse(text.slice(text.indexOf('{'))) as Readonly<Record<string, unknown>>;
  };

  it('a pod with Linkerd’s proxy is reached through it, in the mesh’s wire form', async () => {
    const heard = await call('peer-server');
    for (const protocol of ['http1', 'http2', 'grpc'] as const) {
      const { client, header, origProto } = answer(heard[protocol]);
      assert.equal(client, identity('client'));
      assert.deepEqual(header, { port: ports[protocol], name: '', session: 'http2' });
      assert.equal(origProto, protocol === 'http1' ? 'HTTP/1.1' : '');
    }
    assert.match(heard.websocket, /^101 .*Hello$/);
    assert.deepEqual([heard.tcp, heard.tls], ['some bytes', 'some bytes']);
  });

  it('a pod under an agent is reached in plain text: it is told of no identity, and metrics say why', async () => {
    const heard = await call('server');
    for (const protocol of ['http1', 'http2', 'grpc'] as const) {
      const { clientId, origProto, version } = answer(heard[protocol]);
      assert.deepEqual([clientId, origProto], ['', '']);
      assert.equal(version, protocol === 'http1' ? '1.1' : '2.0');
    }
    assert.equal(heard.websocket, '101  Hello');
    assert.deepEqual([heard.tcp, heard.tls], ['some bytes', 'some bytes']);
    const requests = (await scrape(mesh, 'node2')).filter(
      ({ name, labels }) => name === 'request_total' && labels['direction'] === 'outbound',
    );
    const tlsOf = (to: string) =>
      new Set(
        requests.flatMap(({ labels }) =>
          labels['dst_pod'] === to
            ? [`${labels['tls']} ${labels['no_tls_reason'] ?? labels['server_id']}`]
            : [],
        ),
      );
    assert.deepEqual([...tlsOf('server')], ['no_identity not_provided_by_service_discovery']);
    assert.deepEqual([...tlsOf('peer-server')], [`true ${identity('peer-server')}`]);
    const came = (await scrape(mesh, 'node1')).filter(
      ({ name, labels }) => name === 'request_total' && labels['direction'] === 'inbound',
    );
    assert.ok(came.length > 0);
    for (const { labels } of came)
      assert.deepEqual([labels['tls'], labels['client_id']], ['no_identity', undefined]);
  });

  it('a gateway is told of the service behind it, in the header and in each request', async () => {
    const heard = await call('far');
    const header = { port: 9090, name: 'web.far.svc.cluster.local' };
    for (const protocol of ['http1', 'http2', 'grpc'] as const) {
      const seen = answer(heard[protocol]);
      assert.deepEqual(seen['header'], { ...header, session: 'http2' });
      assert.deepEqual([seen['authority'], seen['client']], [FAR, identity('client')]);
    }
    assert.match(heard.websocket, /^101 .*Hello$/);
    assert.equal(heard.tcp, 'some bytes');
  });

  it('its outbound policies lead requests, and inbound policies stay ours', async () => {
    const http1 = async () => (await call('server')).http1;
    assert.equal(answer(await http1())['header'], undefined);
    show({ prefix: ['/path', `${hostOf('peer-server')}:${ports.http1}`] });
    const routed = async () => answer(await http1())['header'] !== undefined;
    await until('the route', WAIT_MS, routed);
    show();
    await until('the end of the route', WAIT_MS, async () => !(await routed()));
    await mesh.annotate(
      'Pod',
      'shop',
      'server',
      'config.linkerd.io/default-inbound-policy=all-authenticated',
    );
    await until('the refusal', WAIT_MS, async () => (await http1()).startsWith('403'));
  });
});
