// SPDX-License-Identifier: Apache-2.0
// Connections to a pod: which go to the agent, which to the application, which nowhere.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type App, shell, TestNode, type TestPod, until } from './harness.ts';

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

  it('lets an application bind its port again while the agent holds connections accepted on it', async () => {
    const server = await serve('0.0.0.0', 8087);
    const { fd } = await dial(pod.ip4, 8087);
    const held = await pod.next();
    assert.equal(await server.app.call(`close ${server.fd}`), '0');
    const again = await serve('0.0.0.0', 8087, server.app);
    assert.equal(held.socket.destroyed, false);
    assert.equal((await dial(pod.ip4, 8087)).answer, '0');
    await pod.next();
    await client.call(`send ${fd} still-open`);
    assert.equal(await server.app.call(`close ${again.fd}`), '0');
    await server.app.close();
  });

  it('never completes a connection whose source is forged to be an own address of the pod', async () => {
    const server = await serve('::', 8088);
    await server.app.call(`opt ${server.fd} rcvtimeo 1`);
    const rules = [
      `ip daddr ${pod.ip4} tcp dport 8088 snat to ${pod.ip4}`,
      `ip6 daddr ${pod.ip6} tcp dport 8088 snat to ${pod.ip6}`,
    ];
    shell('ip', 'netns', 'exec', node.hub, 'nft', 'add table inet forge');
    shell(
      'ip',
      'netns',
      'exec',
      node.hub,
      'nft',
      'add chain inet forge post { type nat hook postrouting priority 100; }',
    );
    for (const rule of rules)
      shell('ip', 'netns', 'exec', node.hub, 'nft', `add rule inet forge post counter ${rule}`);
    const dials: string[] = [];
    for (const ip of [pod.ip4, pod.ip6]) {
      const fd = await client.call(`socket ${ip.includes(':') ? 6 : 4}`);
      await client.call(`opt ${fd} nonblock`);
      assert.equal(await client.call(`connect ${fd} ${ip} 8088`), 'EINPROGRESS');
      dials.push(fd);
    }
    /** Nothing reaches the application or the agent within the time that the server waits. */
    assert.equal(await server.app.call(`accept ${server.fd}`), 'EAGAIN');
    for (const fd of dials) assert.equal(await client.call(`error ${fd} 0`), 'PENDING');
    assert.equal(pod.accepted.length, 0);
    const counted = shell('ip', 'netns', 'exec', node.hub, 'nft', 'list table inet forge');
    assert.equal(counted.match(/packets [1-9]/g)?.length, 2, 'both forged SYNs were sent');
    for (const fd of dials) await client.call(`close ${fd}`);
    shell('ip', 'netns', 'exec', node.hub, 'nft', 'delete table inet forge');
    await server.app.close();
  });

  it('refuses at once, and does not fall through to the application, when no slot has a listener', async () => {
    const server = await serve('::', 8089);
    const refusedBefore = node.redirection.counters().get('no_listener') ?? 0;
    await pod.stopListening();
    assert.equal((await dial(pod.ip4, 8089)).answer, 'ECONNREFUSED');
    assert.equal((await dial(pod.ip6, 8089)).answer, 'ECONNREFUSED');
    assert.equal((await dial(pod.ip4, 4143)).answer, 'ECONNREFUSED');
    assert.equal(node.redirection.counters().get('no_listener'), refusedBefore + 3);
    pod.listen();
    assert.equal((await dial(pod.ip6, 8089)).answer, '0');
    assert.equal((await pod.next()).direction, 'inbound');
    await server.app.close();
  });

  it('steers everything while the list of listening ports is known to be incomplete, until it was read again', async () => {
    const server = await serve('0.0.0.0', 8090);
    assert.ok(pod.redirected);
    node.forgetListeners(pod);
    for (const port of [8090, 8091]) {
      assert.equal((await dial(pod.ip4, port)).answer, '0');
      await pod.next();
    }
    pod.redirected.refreshListeners();
    assert.equal((await dial(pod.ip4, 8090)).answer, '0');
    await pod.next();
    assert.equal((await dial(pod.ip4, 8091)).answer, 'ECONNREFUSED');
    await server.app.close();
  });

  it('knows servers that were there before the pod was enrolled, until the list is read again', async () => {
    const early = node.pod('early');
    const server = await serve('::', 8092, early.app());
    early.enrol();
    for (const ip of [early.ip4, early.ip6]) {
      assert.equal((await dial(ip, 8092)).answer, '0');
      assert.equal((await early.next()).local, `${ip} 8092`);
    }
    await server.app.close();
    assert.equal(
      (await dial(early.ip4, 8092)).answer,
      '0',
      'without a callback nobody knows that it has gone',
    );
    await early.next();
    early.redirected?.refreshListeners();
    assert.equal((await dial(early.ip4, 8092)).answer, 'ECONNREFUSED');
  });

  it('forgets ports on which nothing listens any more, and nothing else', async () => {
    const gone = await serve('0.0.0.0', 8093);
    const there = await serve('0.0.0.0', 8094);
    await gone.app.close();
    const before = node.listenEntries();
    node.redirection.maintain();
    assert.ok(node.listenEntries() < before);
    assert.equal((await dial(pod.ip4, 8094)).answer, '0');
    await pod.next();
    await there.app.close();
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

  it('gives no voucher to an application or an outsider that dials the same port', async () => {
    const first = node.upstream(a, 4);
    node.records.markCarrier(first, 1);
    const socket = await node.connectFd(first, b.ip4, 4143);
    const accepted = await b.next();
    assert.equal(accepted.record?.kind, 'voucher');
    /** An application of the client's pod dials the same port; it is redirected, and bears no voucher. */
    const app = a.app();
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`connect ${fd} ${b.ip4} 4143`), '0');
    assert.deepEqual((await a.next()).record, { kind: 'outbound', ip: b.ip4, port: 4143, podIndex: 1 });
    assert.equal(b.accepted.length, 0);
    const foreign = node.outsider();
    const other = await foreign.call('socket 4');
    assert.equal(await foreign.call(`connect ${other} ${b.ip4} 4143`), '0');
    assert.equal((await b.next()).record, undefined);
    socket.destroy();
  });

  it('gives a record only to the SYN that it was written for, not to another one with the same addresses', async () => {
    const foreign = node.outsider();
    const fd = await foreign.call('socket 4');
    assert.equal(await foreign.call(`bind ${fd} 10.77.0.1 33333`), '0');
    /** As if a carrier of pod a had these addresses: the outsider could have forged them. */
    node.plantVoucher({ ip: '10.77.0.1', port: 33_333 }, { ip: b.ip4, port: 4143 }, 1);
    const before = node.redirection.counters().get('foreign_record') ?? 0;
    assert.equal(await foreign.call(`connect ${fd} ${b.ip4} 4143`), '0');
    assert.equal((await b.next()).record, undefined);
    assert.equal(node.redirection.counters().get('foreign_record'), before + 1);
  });
});
