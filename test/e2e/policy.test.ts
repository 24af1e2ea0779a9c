// SPDX-License-Identifier: Apache-2.0
// Annotations that decide who gets in and what is redirected.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, total } from './scrape.ts';

const MIRROR = fileURLToPath(new URL('programs/mirror.ts', import.meta.url));
const HTTP = 8080;
const TCP = 7070;

/** name of the server -> its annotations. */
const servers: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  open: {},
  denied: { 'config.linkerd.io/default-inbound-policy': 'deny' },
  authenticated: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
  skipped: { 'config.linkerd.io/skip-inbound-ports': String(HTTP) },
  opaque: { 'config.linkerd.io/opaque-ports': String(HTTP) },
};

describe('policy and redirection by annotation', () => {
  let mesh: LocalMesh;

  before(async () => {
    mesh = await startMesh({
      name: 'e2e-policy',
      objects: [
        namespace('mesh', meshed),
        namespace('plain'),
        ...Object.entries(servers).flatMap(([name, annotations]) => [
          pod('mesh', name, ['node', MIRROR, String(HTTP), String(TCP)], { node: 'node1', annotations }),
          service('mesh', name, HTTP),
        ]),
        pod('mesh', 'probed', ['node', MIRROR, String(HTTP), String(TCP)], {
          node: 'node1',
          annotations: servers['denied'] ?? {},
          readinessPort: HTTP,
        }),
        pod('mesh', 'disabled', ['node', MIRROR, String(HTTP), String(TCP)], {
          node: 'node1',
          annotations: { 'linkerd.io/inject': 'disabled' },
        }),
        service('mesh', 'disabled', HTTP),
        pod('mesh', 'client', [], { node: 'node2' }),
        pod('mesh', 'near', [], { node: 'node1' }),
        pod('mesh', 'skipping', [], {
          node: 'node2',
          annotations: { 'config.linkerd.io/skip-outbound-ports': String(HTTP) },
        }),
        pod('plain', 'opted-in', [], { node: 'node2', annotations: meshed }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    for (const name of [...Object.keys(servers), 'disabled']) await untilServed(name);
  });
  after(async () => mesh.down());

  /** Servers without a readiness probe are asked from inside until they listen. */
  const untilServed = async (name: string): Promise<void> => {
    const listening = `for i in $(seq 1200); do curl -s -o /dev/null http://127.0.0.1:${HTTP}/ && exit 0; sleep 0.05; done; exit 1`;
    assert.equal(
      (await mesh.exec(name, ['sh', '-c', listening], { ns: 'mesh' })).code,
      0,
      `${name} does not listen`,
    );
  };
  const get = async (client: string, ns: string, host: string, port = HTTP) => {
    const target = `http://${host.includes(':') ? `[${host}]` : host}:${port}/x`;
    const run = await mesh.exec(client, ['curl', '-sS', '-i', '--max-time', '20', target], { ns });
    return { code: run.code, text: run.stdout + run.stderr };
  };
  const ipOf = async (name: string): Promise<string> => (await mesh.pod(name, 'mesh')).status?.podIP ?? '';
  const clientIdentity = 'default.mesh.serviceaccount.identity.linkerd.cluster.local';

  for (const client of ['client', 'near']) {
    it(`deny denies: 403 or a close, whatever the identity (${client})`, async () => {
      const { text } = await get(client, 'mesh', 'denied');
      assert.doesNotMatch(text, /peer=/);
      const tcp = await mesh.exec(
        client,
        ['sh', '-c', `echo hello | socat -t 5 - TCP:${await ipOf('denied')}:${TCP}`],
        { ns: 'mesh' },
      );
      assert.equal(tcp.stdout, '');
    });
  }

  it('denials are counted and logged with policy and client', async () => {
    await get('client', 'mesh', 'denied');
    await until('a denial is counted', 20_000, async () => {
      const series = await scrape(mesh, 'node1');
      const denied =
        total(series, 'inbound_http_authz_deny_total', { pod: 'denied' }) +
        total(series, 'inbound_tcp_authz_deny_total', { pod: 'denied' });
      return denied > 0;
    });
  });

  it('all-authenticated lets meshed clients in, with their identity, and others get a 403', async () => {
    const inside = await get('client', 'mesh', 'authenticated');
    assert.match(inside.text, new RegExp(`x-client-id: ${clientIdentity}`));
    const outside = await get('outsider', 'plain', 'authenticated.mesh');
    // As with Linkerd, the reason is told to meshed clients only.
    assert.match(outside.text, /^HTTP\/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n$/);
  });

  it('an opted-in pod of a namespace that is not has an identity too', async () => {
    const { text } = await get('opted-in', 'plain', 'authenticated.mesh');
    assert.match(text, /x-client-id: default\.plain\.serviceaccount/);
  });

  it('a skipped inbound port is reached past the mesh', async () => {
    assert.match((await get('outsider', 'plain', 'skipped.mesh')).text, /200 OK[\s\S]*x-client-id: \r/);
    assert.match((await get('client', 'mesh', 'skipped')).text, /200 OK[\s\S]*x-client-id: \r/);
  });

  it('a skipped outbound port is left alone', async () => {
    assert.match((await get('skipping', 'mesh', 'open')).text, /200 OK[\s\S]*x-client-id: \r/);
  });

  it('an opaque port is carried as TCP: encrypted, but with no header added', async () => {
    const before = total(await scrape(mesh, 'node1'), 'tcp_open_total', {
      pod: 'opaque',
      peer: 'src',
      tls: 'true',
    });
    assert.match((await get('client', 'mesh', await ipOf('opaque'))).text, /200 OK[\s\S]*x-client-id: \r/);
    const after = total(await scrape(mesh, 'node1'), 'tcp_open_total', {
      pod: 'opaque',
      peer: 'src',
      tls: 'true',
    });
    assert.equal(after - before, 1);
  });

  it('inject: disabled on the pod keeps it out of an enrolled namespace', async () => {
    assert.match((await get('client', 'mesh', 'disabled')).text, /200 OK[\s\S]*x-client-id: \r/);
    assert.equal((await get('outsider', 'plain', await ipOf('disabled'), 4143)).code, 7);
  });

  it('a port on which nobody listens is refused without a mesh client as ever', async () => {
    assert.equal((await get('outsider', 'plain', await ipOf('open'), 9)).code, 7);
  });

  it("the kubelet's probe passes where policy denies", async () => {
    const probed = await mesh.pod('probed', 'mesh');
    assert.ok(probed.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True'));
  });
});
