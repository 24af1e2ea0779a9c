// SPDX-License-Identifier: Apache-2.0
// Connections to a pod: which go to the agent, which to the application, which nowhere.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type App, TestNode, type TestPod, until } from './harness.ts';

describe('inbound', () => {
  let node: TestNode;
  let pod: TestPod;
  let client: App;
  before(() => {
    node = new TestNode('in');
    pod = node.pod('a', { skipInboundPorts: [{ first: 9000, last: 9010 }] });
    pod.enrol();
    client = node.outsider();
  });
  after(() => node.close());

  /** Listens in the pod; the application and its descriptor. */
  async function serve(ip: string, port: number, app = pod.app()): Promise<{ app: App; fd: string }> {
    const fd = await app.call(`socket ${ip.includes(':') ? 6 : 4}`);
    assert.equal(await app.call(`opt ${fd} reuseaddr 1`), '0');
    assert.equal(await app.call(`bind ${fd} ${ip} ${port}`), '0');
    assert.equal(await app.call(`listen ${fd}`), '0');
    return { app, fd };
  }

  async function dial(ip: string, port: number, from = client): Promise<{ fd: string; answer: string }> {
    const fd = await from.call(`socket ${ip.includes(':') ? 6 : 4}`);
    return { fd, answer: await from.call(`connect ${fd} ${ip} ${port}`) };
  }

  for (const [bound, to] of [
    ['0.0.0.0', '4'],
    ['::', '4'],
    ['::', '6'],
    ['10.77.0.11', '4'],
    ['fd77::11', '6'],
  ] as const) {
    it(`steers to the agent what goes over IPv${to} to a server bound to ${bound}`, async () => {
      const server = await serve(bound, 8080);
      const ip = to === '4' ? pod.ip4 : pod.ip6;
      const { fd, answer } = await dial(ip, 8080);
      assert.equal(answer, '0');
      const got = await pod.next();
      assert.equal(got.direction, 'inbound');
      assert.equal(got.record, undefined);
      assert.equal(got.local, `${ip} 8080`);
      await client.call(`close ${fd}`);
      await server.app.close();
    });
  }

  it('refuses on a port where nobody listens, and again when the server has gone', async () => {
    assert.equal((await dial(pod.ip4, 8081)).answer, 'ECONNREFUSED');
    assert.equal((await dial(pod.ip6, 8081)).answer, 'ECONNREFUSED');
    const { app, fd } = await serve('0.0.0.0', 8081);
    assert.equal((await dial(pod.ip4, 8081)).answer, '0');
    await pod.next();
    await app.call(`close ${fd}`);
    assert.equal((await dial(pod.ip4, 8081)).answer, 'ECONNREFUSED');
  });

  it('counts listening sockets: one of two that share a port may go', async () => {
    const app = pod.app();
    const fds: string[] = [];
    for (let index = 0; index < 2; index++) {
      const fd = await app.call('socket 4');
      await app.call(`opt ${fd} reuseport 1`);
      await app.call(`bind ${fd} 0.0.0.0 8082`);
      assert.equal(await app.call(`listen ${fd}`), '0');
      fds.push(fd);
    }
    await app.call(`shutdown ${fds[0]}`);
    assert.equal((await dial(pod.ip4, 8082)).answer, '0');
    await pod.next();
    await app.close();
    assert.equal((await dial(pod.ip4, 8082)).answer, 'ECONNREFUSED');
  });

  it('keeps a server private that is bound to loopback, or to IPv6 alone for IPv4 clients', async () => {
    const { app } = await serve('127.0.0.1', 8083);
    await serve('::1', 8083, app);
    assert.equal((await dial(pod.ip4, 8083)).answer, 'ECONNREFUSED');
    assert.equal((await dial(pod.ip6, 8083)).answer, 'ECONNREFUSED');
    const fd = await app.call('socket 6');
    await app.call(`opt ${fd} v6only 1`);
    await app.call(`bind ${fd} :: 8084`);
    await app.call(`listen ${fd}`);
    assert.equal((await dial(pod.ip4, 8084)).answer, 'ECONNREFUSED');
    assert.equal((await dial(pod.ip6, 8084)).answer, '0');
    assert.equal((await pod.next()).direction, 'inbound');
    await app.close();
  });

  it('leaves connections inside the pod and skipped ports to the application', async () => {
    const server = await serve('::', 9005);
    const { fd, answer } = await dial(pod.ip4, 9005);
    assert.equal(answer, '0');
    const [, ...address] = (await server.app.call(`accept ${server.fd}`)).split(' ');
    assert.equal(`${address[0]} ${address[1]}`, (await client.call(`name ${fd}`)).replace(/^/, '::ffff:'));
    const second = await serve('::', 8085, pod.app());
    const inside = pod.app();
    for (const ip of [pod.ip4, pod.ip6, '127.0.0.1', '::1']) {
      assert.equal((await dial(ip, 8085, inside)).answer, '0');
      assert.match(await second.app.call(`accept ${second.fd}`), /^\d+ /);
    }
    assert.equal(pod.accepted.length, 0);
    await Promise.all([server.app.close(), second.app.close(), inside.close()]);
  });

  it('answers 4143 and 4190 from outside, 4191 from inside too, though nothing is bound there', async () => {
    for (const port of [4143, 4190, 4191])
      for (const ip of [pod.ip4, pod.ip6]) {
        assert.equal((await dial(ip, port)).answer, '0');
        assert.equal((await pod.next()).local, `${ip} ${port}`);
      }
    const inside = pod.app();
    for (const ip of [pod.ip4, pod.ip6, '127.0.0.1']) {
      assert.equal((await dial(ip, 4191, inside)).answer, '0');
      assert.equal((await pod.next()).direction, 'inbound');
      assert.equal((await dial(ip, 4143, inside)).answer, 'ECONNREFUSED');
    }
    await inside.close();
  });

  it('shows the application the address of its client, in accept and getpeername', async () => {
    for (const [bound, family, shown] of [
      ['0.0.0.0', 4, '203.0.113.9'],
      ['::', 4, '::ffff:203.0.113.9'],
      ['::', 6, '2001:db8::9'],
    ] as const) {
      const server = await serve(bound, 8086);
      const upstream = node.upstream(pod, family);
      node.records.markClient(upstream, shown.replace('::ffff:', ''), 40_001);
      const socket = await node.connectFd(upstream, family === 4 ? pod.ip4 : pod.ip6, 8086);
      const accepted = await server.app.call(`accept ${server.fd}`);
      assert.equal(accepted.replace(/^\d+ /, ''), `${shown} 40001`);
      assert.equal(await server.app.call(`peer ${accepted.split(' ')[0]}`), `${shown} 40001`);
      socket.destroy();
      await server.app.close();
    }
    await until(() => node.inflight() === 0, 'no handshake is left');
  });
});

describe('the same node', () => {
  let node: TestNode;
  let a: TestPod;
  let b: TestPod;
  before(() => {
    node = new TestNode('same');
    a = node.pod('a');
    b = node.pod('b');
    a.enrol();
    b.enrol();
  });
  after(() => node.close());

  it('carries a voucher to the inbound listener of the other pod, and only for marked sockets', async () => {
    for (const family of [4, 6] as const) {
      const ip = family === 4 ? b.ip4 : b.ip6;
      const marked = node.upstream(a, family);
      node.records.markCarrier(marked, 1);
      const first = await node.connectFd(marked, ip, 4143);
      assert.deepEqual((await b.next()).record, { kind: 'voucher', clientPodIndex: 1 });
      const unmarked = node.upstream(a, family);
      node.records.markOwn(unmarked);
      const second = await node.connectFd(unmarked, ip, 4143);
      assert.equal((await b.next()).record, undefined);
      first.destroy();
      second.destroy();
    }
    await until(() => node.inflight() === 0, 'no handshake is left');
  });
});
