// SPDX-License-Identifier: Apache-2.0
// A peer that speaks Linkerd's wire and was made from its description alone, and pods under our agents: each is client
// and server of the other, in every protocol. The peer's pod has the label and the container's name of a pod with
// Linkerd's proxy; it gets its certificate with its pod's token and finds servers by asking destination.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { hostOf, identity, peer, program, servicesOf } from './pods.ts';
import { ports, type Protocol, protocols, type Seen } from './talk.ts';
import type { Header } from './wire.ts';

type Heard = Readonly<Record<Protocol, string>>;

describe("pods under agents and a peer that speaks Linkerd's wire", () => {
  let mesh: LocalMesh;
  let folder: string;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-peer-'));
    const leaf = await (await makeTestAuthority()).leaf('application.example');
    const pem = join(folder, 'tls.pem');
    writeFileSync(pem, leaf.keyPem + leaf.chainPem);
    mesh = await startMesh({
      name: 'p-peer',
      objects: [
        namespace('shop', meshed),
        ...['server', 'client', 'peer-server', 'peer-client'].map((name) => serviceAccount('shop', name)),
        pod('shop', 'server', [process.execPath, program('application.ts'), 'serve', pem], {
          node: 'node1',
          account: 'server',
          readinessPort: ports.tls,
          annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
        }),
        pod('shop', 'client', [], { node: 'node2', account: 'client' }),
        peer('peer-server', 'node1', [program('peer-server.ts')]),
        peer('peer-client', 'node2', []),
        servicesOf('server'),
        servicesOf('peer-server'),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => {
    await mesh?.down();
    rmSync(folder, { recursive: true });
  });

  const run = async (from: string, argv: readonly string[]): Promise<Heard> => {
    const { stdout, stderr } = await mesh.exec(from, [process.execPath, ...argv], { ns: 'shop' });
    assert.notEqual(stdout, '', stderr);
    return JSON.parse(stdout) as Heard;
  };
  const clients = {
    agent: (to: string) => run('client', [program('application.ts'), 'call', hostOf(to)]),
    peer: (to: string) => run('peer-client', [program('peer-client.ts'), hostOf(to)]),
  };

  /** What an application is told of a request. */
  const seen = (client: string, to: string, protocol: 'http1' | 'http2' | 'grpc'): Seen => ({
    version: protocol === 'http1' ? '1.1' : '2.0',
    method: 'POST',
    path: '/path?x=1',
    authority: `${hostOf(to)}:${ports[protocol]}`,
    clientId: identity(client),
    origProto: '',
    // The message of gRPC has five bytes in front.
    body: protocol === 'grpc' ? '\0\0\0\0\u0006a body' : 'a body',
  });
  const answer = (text: string): unknown => JSON.parse(text.slice(text.indexOf('{')));
  const beforeAnswer = (text: string): string => text.slice(0, text.indexOf('{'));

  for (const client of ['client', 'peer-client'] as const) {
    const from = client === 'client' ? 'agent' : 'peer';
    describe(`${client} to a pod under an agent`, () => {
      let heard: Heard;
      before(async () => {
        heard = await clients[from]('server');
      });
      for (const protocol of ['http1', 'http2', 'grpc'] as const) {
        it(protocol, () => {
          assert.match(heard[protocol], /^200 .*\{/, heard[protocol]);
          assert.deepEqual(answer(heard[protocol]), seen(client, 'server', protocol));
        });
      }
      it('answers in HTTP/2 to what was HTTP/1.1 say so, to proxies alone', () => {
        assert.equal(beforeAnswer(heard.http1), from === 'peer' ? '200 as HTTP/1.1 ' : '200 ');
        assert.equal(beforeAnswer(heard.http2), '200 ');
        assert.equal(beforeAnswer(heard.grpc), '200 grpc-status 0 ');
      });
      it('websocket', () => assert.equal(heard.websocket, `101 ${identity(client)} Hello`));
      it('tcp', () => assert.equal(heard.tcp, 'some bytes'));
      it('tls', () => assert.equal(heard.tls, 'some bytes'));
    });
  }

  describe('a pod under an agent to the peer', () => {
    let heard: Heard;
    before(async () => {
      heard = await clients.agent('peer-server');
    });
    const header = (protocol: Protocol, session: Header['session']): Header => ({
      port: ports[protocol],
      name: '',
      session,
    });
    for (const protocol of ['http1', 'http2', 'grpc'] as const) {
      it(protocol, () => {
        assert.match(heard[protocol], /^200 .*\{/, heard[protocol]);
        assert.deepEqual(answer(heard[protocol]), {
          ...seen('client', 'peer-server', protocol),
          version: '2.0',
          clientId: '',
          origProto: protocol === 'http1' ? 'HTTP/1.1' : '',
          client: identity('client'),
          header: header(protocol, 'http2'),
        });
        assert.equal(beforeAnswer(heard[protocol]), protocol === 'grpc' ? '200 grpc-status 0 ' : '200 ');
      });
    }
    it('websocket', () => assert.match(heard.websocket, /^101 .*Hello$/));
    it('tcp', () => assert.equal(heard.tcp, 'some bytes'));
    it('tls', () => assert.equal(heard.tls, 'some bytes'));
  });

  it('the peer to itself', async () => {
    const heard = await clients.peer('peer-server');
    for (const protocol of protocols) assert.match(heard[protocol], /^200 |^101 .*Hello$|^some bytes$/);
  });

  it('less common forms of the wire, what is refused, and the certificate that a pod gets for its token', async () => {
    const heard = (await run('peer-client', [program('peer-forms.ts'), hostOf('server')])) as Readonly<
      Record<string, string>
    >;
    const request = seen('peer-client', 'server', 'http1');
    const http = (form: string): unknown => {
      assert.match(heard[form] ?? '', /^200 .*\{/, `${form}: ${JSON.stringify(heard)}`);
      return answer(heard[form] ?? '');
    };
    const { authority } = request;
    assert.deepEqual(http('HTTP/1.1 as it is'), request);
    assert.deepEqual(http('HTTP/1.0 in HTTP/2'), { ...request, version: '1.0' });
    assert.deepEqual(http('absolute form in HTTP/2'), { ...request, path: `http://${authority}/path?x=1` });
    assert.deepEqual(http('an unknown version in HTTP/2'), { ...request, version: '2.0' });
    assert.deepEqual(http('another host in HTTP/2'), { ...request, version: '2.0' });
    assert.deepEqual(http('a header of a later version'), request);
    assert.equal(heard['a tunnel'], '200 some bytes');
    for (const form of ['a named target', 'port 0', 'no header', 'no ALPN']) {
      assert.equal(heard[form], 'refused', form);
    }
    assert.equal(heard['names'], `DNS:${identity('peer-client')}`);
    assert.equal(heard['certificates'], '2');
    // A day, and the skew of clocks at both ends.
    assert.equal(heard['valid'], '86440 s, until its end');
  });

  it('the form without a header: TLS to the port of the application', async () => {
    const heard = await run('peer-client', [program('peer-client.ts'), hostOf('server'), 'transparent']);
    for (const protocol of ['http1', 'http2', 'grpc'] as const) {
      assert.match(heard[protocol], /^200 .*\{/, heard[protocol]);
      assert.deepEqual(answer(heard[protocol]), seen('peer-client', 'server', protocol));
    }
    assert.equal(heard.websocket, `101 ${identity('peer-client')} Hello`);
    assert.equal(heard.tls, 'some bytes');
  });
});
