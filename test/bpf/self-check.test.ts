// SPDX-License-Identifier: Apache-2.0
// Each check of the self-check: what it watches is broken by hand, behind the redirection's back, and is whole again
// after one run. Traffic proves it, where there is any to prove it.

import assert from 'node:assert/strict';
import { existsSync, readdirSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import {
  counterRows,
  encodeCookie,
  encodeListenKey,
  LAYOUT,
  readU64,
  slotKey,
  structs,
  u32,
  u64,
  writeAddress,
  writeU64,
} from '#lib/bpf/abi.ts';
import type { BpfMap } from '#lib/bpf/loader.ts';
import { requireIp } from '#lib/core/addresses.ts';
import { openListener } from '#lib/net/sockets.ts';
import { socketCookie } from '#lib/net/socket-facts.ts';
import { close } from '#lib/net/native.ts';
import koffi from 'koffi';
import type { CheckName, Difference } from '../../agent/node/self-check-difference.ts';
import { type App, objectsDir, shell, TestNode, type TestPod } from './harness.ts';

const shutdown = koffi.load(null).func('int shutdown(int fd, int how)') as (
  fd: number,
  how: number,
) => number;

/** As the keeper does it when nobody serves a pod any more. */
const shutDown = (fd: number): void => assert.equal(shutdown(fd, 2), 0);

describe('self-check', () => {
  let node: TestNode;
  let pod: TestPod;
  let app: App;
  before(() => {
    node = new TestNode('sc', { inflightStaleMs: 60_000 });
    pod = node.pod('a');
    pod.enrol();
    app = pod.app();
  });
  after(() => node.close());

  const root = (): string => join(node.bpffs, 'nodemesh', String(LAYOUT));
  const cookie = (): bigint => pod.redirected?.cookie ?? 0n;
  const podPin = (name: string): string => join(root(), 'pods', String(cookie()), name);

  function withMap<T>(path: string, use: (map: BpfMap) => T): T {
    const map = node.loader.openMap(path);
    assert.ok(map, path);
    try {
      return use(map);
    } finally {
      map.close();
    }
  }
  const shared = <T>(name: string, use: (map: BpfMap) => T): T => withMap(join(root(), 'maps', name), use);

  function run(): Difference[] {
    const found = [...node.redirection.checkNode()];
    const inflight = node.redirection.checkInflight();
    for (let step = inflight.next(); ; step = inflight.next())
      if (step.done === true) {
        found.push(...step.value);
        break;
      }
    for (const { check } of node.redirection.podChecks()) found.push(...check());
    return found;
  }

  function repairs(...expected: CheckName[]): void {
    const found = run();
    assert.deepEqual(
      found.map(({ check, repaired }) => `${check} ${repaired}`),
      expected.map((check) => `${check} true`),
      JSON.stringify(found),
    );
    assert.deepEqual(run(), []);
  }

  async function meshedOut(): Promise<void> {
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`connect ${fd} 10.77.0.1 80`), '0');
    assert.deepEqual((await pod.next()).record, {
      kind: 'outbound',
      ip: '10.77.0.1',
      port: 80,
      podIndex: 1,
    });
    await app.call(`close ${fd}`);
  }

  /** A connection from outside comes to the agent, not to the application. */
  async function meshedIn(port: number): Promise<void> {
    const client = node.outsider();
    const fd = await client.call('socket 4');
    assert.equal(await client.call(`connect ${fd} ${pod.ip4} ${port}`), '0');
    assert.equal((await pod.next()).direction, 'inbound');
    await client.close();
  }

  async function listening(port: number): Promise<string> {
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`bind ${fd} 0.0.0.0 ${port}`), '0');
    assert.equal(await app.call(`listen ${fd}`), '0');
    return fd;
  }

  it('finds nothing where nothing is wrong, also with ports open and connections made', async () => {
    assert.deepEqual(run(), []);
    const fd = await listening(7000);
    assert.deepEqual(run(), []);
    await meshedIn(7000);
    await meshedOut();
    await app.call(`close ${fd}`);
    assert.deepEqual(run(), []);
  });

  it('pod-record: a record that is gone, and one that was changed', async () => {
    const server = await listening(7003);
    assert.deepEqual(node.redirection.unsound(), []);
    shared('nm_pods', (map) => map.delete(encodeCookie(cookie())));
    assert.deepEqual(node.redirection.unsound(), [pod.description.uid]);
    const client = node.outsider();
    const fd = await client.call('socket 4');
    assert.equal(await client.call(`connect ${fd} ${pod.ip4} 7003`), 'ECONNREFUSED', 'it does not pass by');
    await client.close();
    repairs('pod-record');
    assert.deepEqual(node.redirection.unsound(), []);
    await meshedIn(7003);
    await app.call(`close ${server}`);
    await meshedOut();
    shared('nm_pods', (map) => {
      const value = map.lookup(encodeCookie(cookie()));
      assert.ok(value);
      value.fill(0, structs.nm_pod.fields.armed, structs.nm_pod.fields.armed + 4);
      map.update(encodeCookie(cookie()), value);
    });
    repairs('pod-record');
    await meshedOut();
  });

  it('names an application that listens where the mesh answers, and that gets none of it', async () => {
    const rooted = pod.app(['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs']);
    for (const port of [4143, 4190, 4191]) {
      const fd = await rooted.call('socket 4');
      assert.equal(await rooted.call(`opt ${fd} reuseport 1`), '0');
      assert.equal(await rooted.call(`bind ${fd} 0.0.0.0 ${port}`), '0');
      assert.equal(await rooted.call(`listen ${fd}`), '0');
      await rooted.call(`opt ${fd} nonblock`);
      for (let round = 0; round < 4; round++) await meshedIn(port);
      assert.equal(await rooted.call(`accept ${fd}`), 'EAGAIN');
    }
    assert.deepEqual(run(), []);
    assert.deepEqual(run(), []);
    const told = node.logLines.filter(({ message }) => /an application listens on a port that/.test(message));
    assert.deepEqual(
      told.map(({ fields }) => Number(fields['port'])).sort((left, right) => left - right),
      [4143, 4190, 4191],
      'each once',
    );
    await rooted.close();
  });

  it('pod-link: the program is detached from the namespace', async () => {
    const fd = await listening(7001);
    const link = node.loader.openLink(podPin('link'));
    link?.detach();
    link?.close();
    assert.deepEqual(node.redirection.unsound(), [pod.description.uid]);
    repairs('pod-link');
    await meshedIn(7001);
    await meshedOut();
    await app.call(`close ${fd}`);
  });

  it('pod-link: another program in the place of ours', async () => {
    const fd = await listening(7002);
    const source = join(objectsDir, 'passing.bpf.c');
    const object = join(objectsDir, 'passing.bpf.o');
    writeFileSync(
      source,
      '__attribute__((section("sk_lookup"), used)) int nm_lookup(void *ctx) { return 1; }\nchar _license[] __attribute__((section("license"), used)) = "GPL";\n',
    );
    shell('clang', '-target', 'bpf', '-g', '-O2', '-c', source, '-o', object);
    const passing = node.loader.load(object, { pins: new Map() });
    const link = node.loader.openLink(podPin('link'));
    assert.equal(link?.update(passing.program('nm_lookup')), true);
    link?.close();
    passing.close();
    for (const path of [source, object]) unlinkSync(path);
    repairs('pod-link');
    await meshedIn(7002);
    await app.call(`close ${fd}`);
  });

  it('pod-pins: pins are gone', async () => {
    for (const name of ['link', 'slots']) unlinkSync(podPin(name));
    repairs('pod-pins');
    assert.equal(existsSync(podPin('link')), true);
    await meshedOut();
  });

  it('pod-slots: a slot is empty, and one holds a socket that is not ours', async () => {
    const foreign = openListener(pod.netnsFd, 4);
    withMap(podPin('slots'), (map) => {
      for (let slot = 0; slot < node.redirection.slots; slot++) {
        map.delete(slotKey('outbound', 4, slot));
        map.update(slotKey('inbound', 4, slot), u64(BigInt(foreign)));
        assert.equal(readU64(map.lookup(slotKey('inbound', 4, slot)) ?? u64(0n), 0), socketCookie(foreign));
      }
    });
    repairs('pod-slots');
    close(foreign);
    await meshedOut();
  });

  it('pod-ports: a port that listens and is not known, one that counts and does not listen, lost notes', async () => {
    const fd = await listening(7003);
    const key = encodeListenKey({
      netnsCookie: cookie(),
      ip: requireIp('0.0.0.0', ''),
      port: 7003,
      v6only: false,
    });
    const stale = encodeListenKey({
      netnsCookie: cookie(),
      ip: requireIp('0.0.0.0', ''),
      port: 7004,
      v6only: false,
    });
    shared('nm_listen', (map) => map.delete(key));
    repairs('pod-ports');
    await meshedIn(7003);
    shared('nm_listen', (map) => map.update(stale, u32(3)));
    repairs('pod-ports');
    const client = node.outsider();
    const to = await client.call('socket 4');
    assert.equal(await client.call(`connect ${to} ${pod.ip4} 7004`), 'ECONNREFUSED');
    await client.close();
    node.forgetListeners(pod);
    repairs('pod-ports');
    shared('nm_lost', (map) => map.delete(encodeCookie(cookie())));
    repairs('pod-ports');
    await app.call(`close ${fd}`);
    node.redirection.refreshListeners(pod.description.uid);
    assert.deepEqual(run(), []);
  });

  it('pod-load: a count that is gone, too high or below zero; the last refuses nobody meanwhile', async () => {
    shared('nm_load', (map) => map.delete(encodeCookie(cookie())));
    repairs('pod-load');
    for (const wrong of [1000n, 2n ** 64n - 1n]) {
      shared('nm_load', (map) => map.update(encodeCookie(cookie()), u64(wrong)));
      if (wrong !== 1000n) await meshedOut();
      assert.deepEqual(run(), [], 'one look may have met a handshake');
      repairs('pod-load');
      await meshedOut();
    }
  });

  it('node-inflight: entries without a socket go, with what they count', async () => {
    const fields = structs.nm_record.fields;
    const flow = Buffer.alloc(structs.nm_flow.size);
    writeAddress(flow, requireIp('10.77.0.99', ''), structs.nm_flow.fields.source);
    const record = (ageMs: number): Buffer => {
      const value = Buffer.alloc(structs.nm_record.size);
      writeU64(value, cookie(), fields.netns_cookie);
      writeU64(value, process.hrtime.bigint() - BigInt(ageMs) * 1_000_000n, fields.since_ns);
      return value;
    };
    const row = u32(counterRows.indexOf('inflight'));
    shared('nm_inflight', (map) => {
      for (let port = 1; port <= 1000; port++) {
        flow.writeUInt16BE(port, structs.nm_flow.fields.source_port);
        map.update(flow, record(port === 1 ? 1_000 : 61_000));
      }
    });
    shared('nm_load', (map) => map.update(encodeCookie(cookie()), u64(1000n)));
    shared('nm_counters', (map) => map.update(row, u64(1000n)));
    repairs('node-inflight');
    assert.equal(
      shared('nm_inflight', (map) => map.keys().length),
      1,
    );
    assert.equal(node.inflight(), 1);
    assert.equal(
      shared('nm_load', (map) => readU64(map.lookup(encodeCookie(cookie())) ?? u64(0n), 0)),
      1n,
    );
    shared('nm_inflight', (map) => {
      for (const key of map.keys()) map.delete(key);
    });
    assert.deepEqual(run(), []);
    repairs('pod-load', 'node-inflight');
    assert.equal(node.inflight(), 0);
  });

  it('a full map of handshakes refuses and counts, and all is well once the self-check has been there', async () => {
    const row = u32(counterRows.indexOf('inflight'));
    const refusedBefore = node.redirection.counters().get('inflight_full') ?? 0;
    shared('nm_counters', (map) => map.update(row, u64(16_384n)));
    const fd = await app.call('socket 4');
    assert.equal(await app.call(`connect ${fd} 10.77.0.1 80`), 'ECONNREFUSED');
    assert.equal(node.redirection.counters().get('inflight_full'), refusedBefore + 1);
    await app.call(`close ${fd}`);
    run();
    repairs('node-inflight');
    await meshedOut();
  });

  it('node-links: hooks are detached from their cgroup', async () => {
    for (const name of readdirSync(join(root(), 'links'))) {
      const link = node.loader.openLink(join(root(), 'links', name));
      link?.detach();
      link?.close();
    }
    repairs('node-links');
    assert.match(shell('bpftool', 'cgroup', 'show', node.podsCgroup), /nm_getpeername6/);
    await meshedOut();
  });

  it('node-pins: pins are gone, or lead to another map; a pod enrolled meanwhile shares the right maps', async () => {
    for (const folder of ['maps', 'links'])
      for (const name of readdirSync(join(root(), folder))) unlinkSync(join(root(), folder, name));
    repairs('node-pins');
    unlinkSync(join(root(), 'maps/nm_load'));
    const other = node.loader.load(join(objectsDir, 'connect.bpf.o'), { pins: new Map() });
    const map = other.map('nm_load');
    map.pin(join(root(), 'maps/nm_load'));
    map.close();
    other.close();
    repairs('node-pins');
    unlinkSync(join(root(), 'maps/nm_pods'));
    const late = node.pod('late');
    late.enrol();
    const server = late.app();
    const fd = await server.call('socket 4');
    assert.equal(await server.call(`connect ${fd} 10.77.0.1 80`), '0');
    assert.equal((await late.next()).record?.kind, 'outbound');
    await server.close();
    late.redirected?.close();
    late.redirected = undefined;
    assert.deepEqual(run(), []);
  });

  it('node-foreign: a program that excludes others is named, and ends the problem when it goes', () => {
    const pin = join(node.bpffs, 'foreign');
    const source = join(objectsDir, 'foreign-sc.bpf.c');
    const object = join(objectsDir, 'foreign-sc.bpf.o');
    writeFileSync(
      source,
      '__attribute__((section("cgroup/connect4"), used)) int foreign_hook(void *ctx) { return 1; }\nchar _license[] __attribute__((section("license"), used)) = "GPL";\n',
    );
    shell('clang', '-target', 'bpf', '-g', '-O2', '-c', source, '-o', object);
    shell('bpftool', 'prog', 'load', object, pin);
    shell('bpftool', 'cgroup', 'attach', node.nodeCgroup, 'connect4', 'pinned', pin);
    try {
      const [found, ...more] = run();
      assert.deepEqual(more, []);
      assert.equal(found?.check, 'node-foreign');
      assert.equal(found.repaired, false);
      assert.match(found.message, /"foreign_hook"/);
    } finally {
      shell('bpftool', 'cgroup', 'detach', node.nodeCgroup, 'connect4', 'pinned', pin);
      for (const path of [pin, source, object]) unlinkSync(path);
    }
    assert.deepEqual(run(), []);
  });

  it('pod-listeners: listeners that were shut down cannot be mended, and refuse', async () => {
    const hurt = node.pod('hurt');
    hurt.redirected = node.redirection.preparePod(hurt.description);
    const fd = openListener(hurt.netnsFd, 4);
    hurt.redirected.setListener('outbound', 4, 0, fd);
    hurt.redirected.arm(hurt.description);
    assert.deepEqual(run(), []);
    shutDown(fd);
    const [found, ...more] = run();
    assert.deepEqual(more, []);
    assert.equal(found?.check, 'pod-listeners');
    assert.equal(found.repaired, false);
    const inside = hurt.app();
    const socket = await inside.call('socket 4');
    assert.equal(await inside.call(`connect ${socket} 10.77.0.1 80`), 'ECONNREFUSED');
    await inside.close();
    hurt.redirected.close();
    hurt.redirected = undefined;
    close(fd);
  });
});

describe('two layouts side by side', () => {
  let node: TestNode;
  before(() => {
    node = new TestNode('sc2', { layout: 900 });
  });
  after(async () => {
    await node.close();
  });

  it('a pod stays redirected by the old one until the new one has armed it; the rest goes with the sweep', async () => {
    const all = join(node.bpffs, 'nodemesh');
    const [moved, waiting] = [node.pod('moved'), node.pod('waiting')];
    for (const one of [moved, waiting]) one.enrol();
    const cookies = [moved, waiting].map((one) => String(one.redirected?.cookie));
    node.redirection.close();
    for (const one of [moved, waiting]) {
      await one.stopListening();
      one.redirected = undefined;
    }
    node.restart({ layout: 901 });
    const apps = [moved, waiting].map((one) => one.app());
    const dial = async (index: number): Promise<string> => {
      const fd = await apps[index]?.call('socket 4');
      return (await apps[index]?.call(`connect ${fd} 10.77.0.1 80`)) ?? '';
    };
    const agentGone = 'ECONNREFUSED';
    for (const index of [0, 1]) assert.equal(await dial(index), agentGone);
    assert.deepEqual(readdirSync(join(all, '900/pods')).sort(), [...cookies].sort());

    moved.enrol();
    assert.equal(await dial(0), '0');
    assert.equal((await moved.next()).record?.kind, 'outbound');
    assert.deepEqual(readdirSync(join(all, '900/pods')), [cookies[1]]);
    assert.equal(await dial(1), agentGone, 'never past the mesh');

    node.redirection.sweep('dead');
    assert.equal(existsSync(join(all, '900')), true, 'a living pod that nobody named stays closed');
    waiting.enrol();
    assert.equal(await dial(1), '0');
    assert.equal((await waiting.next()).record?.kind, 'outbound');
    node.redirection.sweep('dead');
    assert.deepEqual(readdirSync(all), ['901']);
    for (const one of apps) await one.close();
  });
});
