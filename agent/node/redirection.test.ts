// SPDX-License-Identifier: Apache-2.0
// What the node part tells the kernel, step by step, on a loader in memory; the kernel itself is in test/bpf.

import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { type IpBytes, requireIp } from '#lib/core/addresses.ts';
import { type ErrorCode, MeshError } from '#lib/core/errors.ts';
import { recordingLog } from '#lib/core/log.ts';
import {
  encodeCookie,
  encodeListenKey,
  LAYOUT,
  readAddress,
  readU32,
  structs,
  u32,
  u64,
} from '#lib/bpf/abi.ts';
import { createFakeLoader, type FakeLoader } from '#lib/bpf/fake-loader.ts';
import type { BpfMap } from '#lib/bpf/loader.ts';
import type { ListeningSocket } from '#lib/net/pod-sockets.ts';
import { createRedirection, type KernelRedirection } from './redirection.ts';
import type { RedirectedPod } from './redirection-types.ts';

const cookie = 77n;
const key = encodeCookie(cookie);
const fields = structs.nm_pod.fields;

let folder: string;
let loader: FakeLoader;
let netnsFd: number;
let log: ReturnType<typeof recordingLog>;
/** What the pod's namespace says. */
let addresses: IpBytes[];
let listening: ListeningSocket[];
let changed: (() => void) | undefined;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'redirection-'));
  for (const name of ['bpffs', 'node', 'node/pods', 'objects', 'netns']) mkdirSync(join(folder, name));
  for (const name of ['node', 'node/pods']) writeFileSync(join(folder, name, 'cgroup.controllers'), '');
  loader = createFakeLoader();
  netnsFd = openSync(join(folder, 'netns'), 'r');
  log = recordingLog();
  addresses = [requireIp('127.0.0.1', ''), requireIp('10.0.0.5', ''), requireIp('fe80::5', '')];
  listening = [];
  changed = undefined;
});
afterEach(() => {
  closeSync(netnsFd);
  rmSync(folder, { recursive: true });
});

const create = (slots = 2): KernelRedirection =>
  createRedirection({
    bpffs: join(folder, 'bpffs'),
    objectsDir: join(folder, 'objects'),
    podsCgroup: join(folder, 'node/pods'),
    nodeCgroup: join(folder, 'node'),
    slots,
    log,
    loader,
    namespaces: {
      cookie: () => cookie,
      addresses: () => addresses,
      listeningSockets: () => listening,
      // The sockmap in memory holds descriptors.
      socketCookie: BigInt,
      listens: () => true,
      watchAddresses: (_fd, call) => {
        changed = call;
        return () => {
          changed = undefined;
        };
      },
    },
  });

const description = (more: Partial<RedirectedPod> = {}): RedirectedPod => ({
  uid: 'pod-1',
  podIndex: 9,
  netnsFd,
  addresses: ['10.0.0.5', 'fd00::5'],
  skipOutboundPorts: [],
  skipInboundPorts: [],
  skipSubnets: [],
  ...more,
});

const root = (): string => join(folder, 'bpffs/nodemesh', String(LAYOUT));

function map(name: string): BpfMap {
  const found = loader.pinned(join(root(), 'maps', name));
  assert.ok(found, `${name} is pinned`);
  return found;
}

function podRecord(): Buffer {
  const value = map('nm_pods').lookup(key);
  assert.ok(value, 'the pod is known');
  return value;
}

const coded =
  (code: ErrorCode) =>
  (error: unknown): boolean =>
    error instanceof MeshError && error.code === code;

test('sockops hangs before any connect is pointed at the agent, and connect hooks come last', () => {
  create();
  assert.deepEqual(
    loader.attached.map(({ point }) => point),
    ['sockops', 'getpeername4', 'getpeername6', 'connect4', 'connect6'],
  );
  const inode = (path: string): bigint => BigInt(statSync(join(folder, path)).ino);
  assert.equal(loader.attached[0]?.target, inode('node'));
  assert.equal(loader.attached[3]?.target, inode('node/pods'));
});

test('an exclusive program of somebody else is named and nothing is attached', () => {
  loader.exclusive.set(BigInt(statSync(join(folder, 'node')).ino), { id: 12, name: 'other_mesh' });
  assert.throws(create, (error) => coded('MESH_BPF_ATTACH')(error) && String(error).includes('other_mesh'));
  assert.equal(loader.attached.length, 0);
});

test('a prepared pod is not steered before it is armed', () => {
  const pod = create().preparePod(description());
  assert.equal(readU32(podRecord(), fields.armed), 0);
  pod.arm(description());
  assert.equal(readU32(podRecord(), fields.armed), 1);
  assert.equal(readU32(podRecord(), fields.index), 9);
  assert.equal(readAddress(podRecord(), fields.own4), '10.0.0.5');
  assert.equal(readAddress(podRecord(), fields.own6), 'fd00::5');
});

test("own addresses are the pod's and its namespace's, once each, loopback aside, and follow changes", () => {
  const pod = create().preparePod(description());
  pod.arm(description());
  const own = (): string[] =>
    Array.from({ length: readU32(podRecord(), fields.addresses_count) }, (_, index) =>
      readAddress(podRecord(), fields.addresses + index * 16),
    );
  assert.deepEqual(own(), ['10.0.0.5', 'fd00::5', 'fe80::5']);
  addresses = [...addresses, requireIp('10.0.0.6', '')];
  changed?.();
  assert.deepEqual(own(), ['10.0.0.5', 'fd00::5', 'fe80::5', '10.0.0.6']);
  addresses = Array.from({ length: 40 }, (_, index) => requireIp(`10.1.0.${index}`, ''));
  changed?.();
  assert.equal(own().length, 16);
  assert.equal(own()[0], '10.0.0.5', "the pod's own come first");
  assert.equal(log.lines.at(-1)?.fields['addresses'], 42);
});

test('ranges of skipped ports are joined where they touch, and one range too many is refused', () => {
  const pod = create().preparePod(description());
  const ranges = (count: number, step: number) =>
    Array.from({ length: count }, (_, index) => ({ first: 1000 + index * step, last: 1000 + index * step }));
  pod.arm(description({ skipOutboundPorts: ranges(500, 1), skipInboundPorts: ranges(32, 2) }));
  assert.equal(readU32(podRecord(), fields.skip_outbound_count), 1);
  assert.equal(readU32(podRecord(), fields.skip_inbound_count), 32);
  assert.throws(() => pod.arm(description({ skipInboundPorts: ranges(33, 2) })), coded('MESH_LIMIT'));
  assert.throws(() => pod.arm(description({ skipSubnets: ['10.0.0.0/33'] })), coded('MESH_CONFIG_INVALID'));
});

test('listening sockets that were there before are known, those that the programs noted are not counted twice', () => {
  const redirection = create();
  const any = requireIp('0.0.0.0', '');
  const entry = (port: number): Buffer =>
    encodeListenKey({ netnsCookie: cookie, ip: any, port, v6only: false });
  map('nm_listen').update(entry(81), u32(1));
  listening = [
    { ip: any, port: 80, v6only: false },
    { ip: any, port: 81, v6only: false },
    { ip: any, port: 82, v6only: false },
    { ip: any, port: 82, v6only: false },
    { ip: requireIp('127.0.0.1', ''), port: 83, v6only: false },
  ];
  const pod = redirection.preparePod(description());
  const seeded = (port: number): number | undefined => map('nm_seeded').lookup(entry(port))?.readUInt32LE();
  assert.deepEqual([80, 81, 82, 83].map(seeded), [1, undefined, 2, undefined]);
  listening = [{ ip: any, port: 82, v6only: false }];
  map('nm_lost').update(key, u64(3n));
  pod.refreshListeners();
  assert.deepEqual([80, 81, 82].map(seeded), [undefined, undefined, 1]);
  assert.deepEqual(map('nm_lost').lookup(key), u64(0n));
});

test('a pod that cannot be hooked leaves nothing behind', () => {
  const redirection = create();
  listening = [{ ip: requireIp('0.0.0.0', ''), port: 80, v6only: false }];
  loader.failAttach = 'lookup';
  assert.throws(() => redirection.preparePod(description()), coded('MESH_BPF_ATTACH'));
  for (const name of ['nm_pods', 'nm_load', 'nm_lost', 'nm_listen', 'nm_seeded'])
    assert.equal(map(name).keys().length, 0, name);
  assert.deepEqual(readdirSync(join(root(), 'pods')), []);
  redirection.preparePod(description());
});

test('a node that cannot be hooked closes what it opened; the next attempt works', () => {
  loader.failAttach = 'connect6';
  assert.throws(create, coded('MESH_BPF_ATTACH'));
  create();
  assert.equal(loader.attached.length, 5);
});

test('a restarted agent updates links in place and leaves an armed pod armed', () => {
  const first = create();
  first.preparePod(description()).arm(description());
  const before = loader.attached.map(({ program }) => program.fd);
  first.close();
  const second = create();
  second.preparePod(description());
  assert.equal(readU32(podRecord(), fields.armed), 1);
  assert.equal(loader.attached.length, before.length);
  assert.ok(loader.attached.every(({ program }, index) => program.fd > (before[index] ?? 0)));
});

test('close ends one pod, sweep those that nobody prepared, uninstall everything', () => {
  const first = create();
  const pod = first.preparePod(description());
  pod.close();
  assert.equal(map('nm_pods').keys().length, 0);
  assert.deepEqual(readdirSync(join(root(), 'pods')), []);
  first.preparePod(description());
  first.close();
  const second = create();
  assert.equal(second.sweep('dead'), 0);
  assert.equal(second.sweep('all'), 1);
  assert.equal(map('nm_pods').keys().length, 0);
  second.preparePod(description());
  assert.equal(second.sweep('all'), 0);
  second.uninstall();
  assert.equal(loader.attached.length, 0);
  assert.equal(existsSync(join(folder, 'bpffs/nodemesh')), false);
});

test('counters are given by name', () => {
  const redirection = create();
  map('nm_counters').update(u32(1), u64(5n));
  assert.equal(redirection.counters().get('inflight_full'), 5);
  assert.equal(redirection.counters().get('no_listener'), 0);
});

test('more slots than the map has are refused', () => {
  assert.throws(() => create(17), coded('MESH_CONFIG_INVALID'));
  assert.throws(() => create(0), coded('MESH_CONFIG_INVALID'));
});
