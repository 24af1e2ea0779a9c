// SPDX-License-Identifier: Apache-2.0
// Connects of applications: which are pointed at the agent, and what agent and application are told.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { checked, close, listen } from '#lib/net/native.ts';
import { listeningSockets } from '#lib/net/pod-sockets.ts';
import { openListener } from '#lib/net/sockets.ts';
import { type App, shell, TestNode, type TestPod, until } from './harness.ts';

describe('outbound', () => {
  let node: TestNode;
  let pod: TestPod;
  before(() => {
    node = new TestNode('out');
    pod = node.pod('a');
    pod.enrol();
  });
  after(() => node.close());

  for (const [what, family, dialled, canonical] of [
    ['IPv4', 4, '10.99.0.7', '10.99.0.7'],
    ['IPv6', 6, 'fd99::7', 'fd99::7'],
    ['IPv4-mapped', 6, '::ffff:10.99.0.7', '10.99.0.7'],
  ] as const) {
    it(`gives the agent the dialled ${what} address and port, and the application too`, async () => {
      const app = pod.app();
      const fd = await app.call(`socket ${family}`);
      assert.equal(await app.call(`connect ${fd} ${dialled} 8080`), '0');
      const got = await pod.next();
      assert.equal(got.direction, 'outbound');
      assert.deepEqual(got.record, { kind: 'outbound', ip: canonical, port: 8080, podIndex: 1 });
      assert.equal(await app.call(`peer ${fd}`), `${dialled} 8080`);
      const own = family === 4 ? pod.ip4 : what === 'IPv6' ? pod.ip6 : `::ffff:${pod.ip4}`;
      assert.match(await app.call(`name ${fd}`), new RegExp(`^${own} `));
      got.socket.end('over');
      assert.equal(await app.call(`recv ${fd}`), '=over');
    });
  }

  async function dial(app: App, ip: string, port: number): Promise<{ fd: string; answer: string }> {
    const fd = await app.call(`socket ${ip.includes(':') ? 6 : 4}`);
    return { fd, answer: await app.call(`connect ${fd} ${ip} ${port}`) };
  }

  async function recordOf(pod_: TestPod): Promise<string> {
    const { record } = await pod_.next();
    return record?.kind === 'outbound' ? `${record.ip} ${record.port}` : 'none';
  }

  it('gives a pod more connections than its ip_local_port_range has ports', async () => {
    const narrow = node.pod('narrow');
    shell('ip', 'netns', 'exec', narrow.netns, 'sysctl', '-qw', 'net.ipv4.ip_local_port_range=40000 40099');
    narrow.enrol();
    const app = narrow.app();
    for (const [index, ip] of ['10.99.1.1', '10.99.1.2', '10.99.1.3', 'fd99::1', 'fd99::2'].entries())
      assert.equal(await app.call(`many 100 ${ip} ${7000 + index}`), '100');
    const seen = new Map<string, number>();
    for (let index = 0; index < 500; index++) {
      const record = await recordOf(narrow);
      seen.set(record, (seen.get(record) ?? 0) + 1);
    }
    assert.deepEqual([...seen.values()], [100, 100, 100, 100, 100]);
    // Also to a single destination.
    assert.equal(await app.call('many 400 10.99.1.6 7005'), '400');
    for (let index = 0; index < 400; index++) assert.equal(await recordOf(narrow), '10.99.1.6 7005');
    await app.close();
  });

  it('spreads connections over the slots and skips one without a listener', async () => {
    const app = pod.app();
    const slots = new Set<number>();
    const round = async (): Promise<void> => {
      slots.clear();
      await app.call('many 40 10.99.0.8 80');
      for (let index = 0; index < 40; index++) slots.add((await pod.next()).slot);
    };
    await round();
    assert.deepEqual(
      [...slots].sort((x, y) => x - y),
      [0, 1],
    );
    pod.redirected?.clearListener('outbound', 4, 0);
    await round();
    assert.deepEqual([...slots], [1]);
    await app.close();
  });

  it('leaves alone: port 53, loopback, any, own addresses, skipped ports and subnets, sockets bound to a device', async () => {
    const skipping = node.pod('skipping', {
      skipOutboundPorts: [{ first: 7000, last: 7010 }],
      skipSubnets: ['10.77.0.1/32', 'fd77::1/128'],
    });
    skipping.enrol();
    const server = node.outsider();
    for (const [fd, port] of [
      [await server.call('socket 6'), 53],
      [await server.call('socket 6'), 7005],
      [await server.call('socket 6'), 7100],
    ] as const) {
      await server.call(`bind ${fd} :: ${port}`);
      await server.call(`listen ${fd}`);
    }
    const app = skipping.app();
    const own = await app.call('socket 6');
    await app.call(`bind ${own} :: 7200`);
    await app.call(`listen ${own}`);
    for (const [ip, port] of [
      ['10.77.0.1', 53],
      ['fd77::1', 53],
      ['10.77.0.1', 7005],
      ['::ffff:10.77.0.1', 7005],
      ['10.77.0.1', 7100],
      ['fd77::1', 7100],
      ['::ffff:10.77.0.1', 7100],
      ['127.0.0.1', 7200],
      ['::1', 7200],
      ['::ffff:127.0.0.1', 7200],
      ['0.0.0.0', 7200],
      ['::', 7200],
      [skipping.ip4, 7200],
      [skipping.ip6, 7200],
    ] as const) {
      const { fd, answer } = await dial(app, ip, port);
      assert.equal(answer, '0', `${ip} ${port}`);
      const shown = ip === '0.0.0.0' ? '127.0.0.1' : ip === '::' ? '::1' : ip;
      assert.equal(await app.call(`peer ${fd}`), `${shown} ${port}`);
    }
    const free = pod.app();
    const bound = await free.call('socket 4');
    await free.call(`opt ${bound} device eth0`);
    assert.equal(await free.call(`connect ${bound} 10.77.0.1 7100`), '0');
    assert.equal(pod.accepted.length, 0);
    assert.equal(skipping.accepted.length, 0);
    /** Positive control: another port of an address that is not skipped. */
    assert.equal((await dial(app, '10.77.0.2', 7011)).answer, '0');
    assert.equal(await recordOf(skipping), '10.77.0.2 7011');
  });

  it('forgets the dialled address at the next connect, also after AF_UNSPEC', async () => {
    const app = pod.app();
    const server = await app.call('socket 4');
    await app.call(`bind ${server} 127.0.0.1 7300`);
    await app.call(`listen ${server}`);
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`connect ${fd} 10.99.0.9 81`), '0');
    assert.equal(await recordOf(pod), '10.99.0.9 81');
    assert.equal(await app.call(`unspec ${fd}`), '0');
    assert.equal(await app.call(`connect ${fd} 127.0.0.1 7300`), '0');
    assert.equal(await app.call(`peer ${fd}`), '127.0.0.1 7300');
    assert.equal(await app.call(`unspec ${fd}`), '0');
    assert.equal(await app.call(`connect ${fd} 10.99.0.10 82`), '0');
    assert.equal(await app.call(`peer ${fd}`), '10.99.0.10 82');
    assert.equal(await recordOf(pod), '10.99.0.10 82');
    await app.close();
  });

  it('catches connects by io_uring, by MSG_FASTOPEN and of MPTCP sockets', async () => {
    const app = pod.app();
    const ring = await app.call('socket 4');
    assert.equal(await app.call(`uring ${ring} 10.99.0.11 83`), '0');
    assert.equal(await recordOf(pod), '10.99.0.11 83');
    const fast = await app.call('socket 6');
    assert.equal(await app.call(`fastopen ${fast} fd99::11 84`), '4');
    assert.equal(await recordOf(pod), 'fd99::11 84');
    assert.equal(await app.call(`peer ${fast}`), 'fd99::11 84');
    for (const [family, ip] of [
      [4, '10.99.0.12'],
      [6, 'fd99::12'],
    ] as const) {
      const multi = await app.call(`socket ${family} mptcp`);
      assert.equal(await app.call(`connect ${multi} ${ip} 85`), '0');
      assert.equal(await recordOf(pod), `${ip} 85`);
      assert.equal(await app.call(`peer ${multi}`), `${ip} 85`);
    }
    await app.close();
  });

  it('knows the destination of data that came with the SYN', async () => {
    const fast = node.pod('fast');
    /** Client and server, without cookies, for all listeners. */
    shell('ip', 'netns', 'exec', fast.netns, 'sysctl', '-qw', 'net.ipv4.tcp_fastopen=1543');
    fast.enrol();
    const app = fast.app();
    for (const ip of ['10.99.0.14', 'fd99::14']) {
      const fd = await app.call(`socket ${ip.includes(':') ? 6 : 4}`);
      assert.equal(await app.call(`fastopen ${fd} ${ip} 88`), '4');
      assert.equal(await recordOf(fast), `${ip} 88`);
    }
    assert.match(
      shell('ip', 'netns', 'exec', fast.netns, 'nstat', '-az', 'TcpExtTCPFastOpenPassive'),
      /Passive +2 /,
    );
    await app.close();
  });

  it('is not passed by a process with CAP_NET_RAW that sets a mark', async () => {
    const app = pod.app();
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`opt ${fd} mark 1`), '0');
    assert.equal(await app.call(`connect ${fd} 10.99.0.13 86`), '0');
    assert.equal(await recordOf(pod), '10.99.0.13 86');
    await app.close();
  });

  it('lets no process of uid 0 without capabilities join a listener of the agent', async () => {
    const app = pod.app(['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs']);
    const listeners = listeningSockets(pod.netnsFd).filter(({ ip }) => ip[0] === 127 || ip[15] === 1);
    assert.equal(listeners.length, 8);
    for (const { ip, port } of listeners) {
      const fd = await app.call(`socket ${ip.length === 4 ? 4 : 6}`);
      assert.equal(await app.call(`opt ${fd} reuseport 1`), '0');
      assert.equal(await app.call(`opt ${fd} reuseaddr 1`), '0');
      assert.equal(
        await app.call(`bind ${fd} ${ip.length === 4 ? '127.0.0.1' : '::1'} ${port}`),
        'EADDRINUSE',
      );
    }
    await app.close();
  });

  it("leaves the agent's own sockets alone", async () => {
    const server = node.outsider();
    const listener = await server.call('socket 4');
    await server.call(`bind ${listener} 10.77.0.1 7400`);
    await server.call(`listen ${listener}`);
    /** In the pods' cgroup, so that the hook runs: where there is no parent of all pods it hangs on the root. */
    const [marked, unmarked] = node.amongPods(() => [node.upstream(pod, 4), node.upstream(pod, 4)]);
    node.records.markOwn(marked);
    const first = await node.connectFd(marked, '10.77.0.1', 7400);
    assert.match(await server.call(`accept ${listener}`), new RegExp(` ${pod.ip4} `));
    const second = await node.connectFd(unmarked, '10.77.0.1', 7400);
    assert.equal(await recordOf(pod), '10.77.0.1 7400');
    first.destroy();
    second.destroy();
  });

  it('does not touch a namespace that is not enrolled', async () => {
    const other = node.pod('other');
    const server = node.outsider();
    const listener = await server.call('socket 6');
    await server.call(`bind ${listener} :: 7500`);
    await server.call(`listen ${listener}`);
    const app = other.app();
    for (const ip of ['10.77.0.1', 'fd77::1', '::ffff:10.77.0.1']) {
      const { fd, answer } = await dial(app, ip, 7500);
      assert.equal(answer, '0');
      assert.equal(await app.call(`peer ${fd}`), `${ip} 7500`);
      const shown = ip.startsWith('fd') ? other.ip6 : `::ffff:${other.ip4}`;
      assert.match(await server.call(`accept ${listener}`), new RegExp(`^\\d+ ${shown} `));
    }
  });

  it('takes a new address of the pod as its own', async () => {
    const app = pod.app();
    assert.equal((await dial(app, '10.77.0.99', 87)).answer, '0');
    assert.equal(await recordOf(pod), '10.77.0.99 87');
    shell('ip', '-n', pod.netns, 'addr', 'add', '10.77.0.99/24', 'dev', 'eth0');
    await until(async () => (await dial(app, '10.77.0.99', 87)).answer === 'ECONNREFUSED', 'not redirected');
    for (const { record } of pod.accepted.splice(0)) assert.equal(record?.kind, 'outbound');
    await app.close();
  });

  it('leaves no entry of an unfinished handshake behind', () => {
    assert.equal(node.inflight(), 0);
    assert.equal(node.redirection.counters().get('record_lost'), 0);
    assert.equal(node.redirection.counters().get('foreign_record'), 0);
    assert.equal(node.redirection.counters().get('storage_failed'), 0);
    assert.equal(node.redirection.counters().get('bound_device'), 1);
  });
});

describe('outbound without an agent that accepts', () => {
  let node: TestNode;
  let pod: TestPod;
  before(() => {
    node = new TestNode('full', { inflightMax: 64, inflightPodMax: 8 });
    pod = node.pod('a');
    pod.redirected = node.redirection.preparePod(pod.description);
    pod.redirected.arm(pod.description);
  });
  after(() => node.close());

  it('refuses at once when no slot has a listener', async () => {
    const app = pod.app();
    for (const ip of ['10.99.0.7', 'fd99::7']) {
      const fd = await app.call(`socket ${ip.includes(':') ? 6 : 4}`);
      assert.equal(await app.call(`connect ${fd} ${ip} 80`), 'ECONNREFUSED');
    }
    assert.equal(node.redirection.counters().get('no_listener'), 2);
    assert.equal(node.inflight(), 0);
    await app.close();
  });

  it('refuses and counts when too many handshakes are under way, and forgets those that end unanswered', async () => {
    const stuck = openListener(pod.netnsFd, 4);
    /** Room for a single connection, which nobody accepts. */
    checked('listen', listen(stuck, 0), 'a test');
    for (const slot of [0, 1]) pod.redirected?.setListener('outbound', 4, slot, stuck);
    const app = pod.app();
    const pending: string[] = [];
    let refused = '';
    for (let index = 0; index < 20 && refused === ''; index++) {
      const fd = await app.call('socket 4');
      await app.call(`opt ${fd} nonblock`);
      const answer = await app.call(`connect ${fd} 10.99.0.7 80`);
      if (answer === 'EINPROGRESS') pending.push(fd);
      else refused = answer;
    }
    assert.equal(refused, 'ECONNREFUSED');
    assert.equal(node.inflight(), 8);
    assert.equal(node.redirection.counters().get('inflight_full'), 1);
    /** Another pod is none the worse for it. */
    const other = node.pod('b');
    other.enrol();
    const free = other.app();
    const fd = await free.call('socket 4');
    assert.equal(await free.call(`connect ${fd} 10.99.0.7 80`), '0');
    await until(() => node.inflight() === 8, 'only those of the first pod are left');
    /** Each way to give up: close, AF_UNSPEC, death. */
    await app.call(`close ${pending.at(-1)}`);
    assert.equal(await app.call(`unspec ${pending.at(-2)}`), '0');
    assert.equal(node.inflight(), 6);
    await app.close();
    await until(() => node.inflight() === 0, 'no handshake is left');
    close(stuck);
  });
});
