// SPDX-License-Identifier: Apache-2.0
// Proxy workers in this process on a network of their own: a private network namespace with the pods' addresses on
// its loopback device, and a namespace per server pod in which its application listens. The eBPF records are played
// by tables; sockets, TLS, certificates and metrics are real. Everything goes with the process.

import { strict as assert } from 'node:assert';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import koffi from 'koffi';
import { type Clock, seededRandom } from '#lib/core/clock.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { PatientClock } from '#lib/core/patient-clock.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import type { MetricDefinition } from '#lib/metrics/model.ts';
import { bind, checked, close, dup, getsockname, listen, setsockopt, stableBytes } from '#lib/net/native.ts';
import { inNamespace, openNamespace } from '#lib/net/netns.ts';
import { openPair } from '#lib/net/socket-pair.ts';
import { openSockets } from '#lib/net/sockets.ts';
import { makeTestAuthority, type TestAuthority } from '#lib/x509-authority/test-authority.ts';
import type { AcceptedRecord, WorkerKernel } from '../../agent/proxy/accept/kernel.ts';
import { proxyFamilies } from '../../agent/proxy/metrics/families.ts';
import type {
  Authorization,
  Destination,
  Endpoint,
  FromWorker,
  SameNode,
  ServerPolicy,
  WorkerPod,
} from '../../agent/proxy/model.ts';
import { createProxyWorker, type ProxyWorker } from '../../agent/proxy/pods/proxy-worker.ts';

const CLONE_NEWNET = 0x40000000;
const libc = koffi.load(null);
const unshare = libc.func('int unshare(int flags)') as (flags: number) => number;
const getpeername = libc.func('int getpeername(int fd, void *address, void *length)') as (
  fd: number,
  address: Uint8Array,
  length: Uint8Array,
) => number;

export const IDENTITY_SUFFIX = 'serviceaccount.identity.linkerd.cluster.local';
export const identityOf = (account: string): string => `${account}.shop.${IDENTITY_SUFFIX}`;

function ip(...args: string[]): void {
  const { status, stderr } = spawnSync('ip', args, { encoding: 'utf8' });
  assert.equal(status, 0, `ip ${args.join(' ')}: ${stderr}`);
}

function raiseLoopback(addresses: readonly string[]): void {
  ip('link', 'set', 'lo', 'up');
  for (const address of addresses) {
    if (address.includes(':')) ip('-6', 'addr', 'add', `${address}/128`, 'dev', 'lo', 'nodad');
    else ip('addr', 'add', `${address}/32`, 'dev', 'lo');
  }
}

/** Puts this process on a network of its own; before anything else of lib/net is used. Returns its descriptor. */
export function enterPrivateNetwork(addresses: readonly string[]): number {
  assert.equal(unshare(CLONE_NEWNET), 0, 'unshare (root is needed)');
  raiseLoopback(addresses);
  return openNamespace('/proc/thread-self/ns/net');
}

/** A namespace with one pod's addresses, as a descriptor; it ends when that is closed. */
export function makePodNamespace(home: number, addresses: readonly string[]): number {
  assert.equal(unshare(CLONE_NEWNET), 0);
  raiseLoopback(addresses);
  const made = openNamespace('/proc/thread-self/ns/net');
  const setns = libc.func('int setns(int fd, int kind)') as (fd: number, kind: number) => number;
  assert.equal(setns(home, CLONE_NEWNET), 0);
  return made;
}

function socketAddress(address: string, port: number): Buffer {
  const bytes = stableBytes(16);
  bytes.writeUInt16LE(2, 0);
  bytes.writeUInt16BE(port, 2);
  address.split('.').forEach((part, index) => {
    bytes[4 + index] = Number(part);
  });
  return bytes;
}

function readName(call: (fd: number, address: Uint8Array, length: Uint8Array) => number, fd: number): string {
  const address = stableBytes(16);
  const length = stableBytes(4);
  length.writeUInt32LE(16);
  return call(fd, address, length) < 0
    ? ''
    : `${[...address.subarray(4, 8)].join('.')}:${address.readUInt16BE(2)}`;
}

/** A listening descriptor inside a namespace. */
export function listenIn(netnsFd: number, address: string, port: number): number {
  const [fd = -1] = openSockets(netnsFd, 4, 1);
  const one = stableBytes(4);
  one.writeInt32LE(1);
  checked('setsockopt', setsockopt(fd, 1, 2, one, 4), 'reuse');
  checked('bind', bind(fd, socketAddress(address, port), 16), `${address}:${port}`);
  checked('listen', listen(fd, 128), `${address}:${port}`);
  return fd;
}

/** The records that eBPF would hold, keyed by what a socket is bound or connected to. */
export class TableKernel implements WorkerKernel {
  /** Local address of the outbound listener -> original destination. */
  readonly outbound = new Map<string, { ip: string; port: number }>();
  readonly vouchers = new Map<string, number>();
  readonly clients: { ip: string; port: number }[] = [];
  readonly open = new Set<number>();
  carrierSource = '10.77.0.1';

  openSockets(netnsFd: number, family: 4 | 6, count: number): number[] {
    const opened = openSockets(netnsFd, family, count);
    for (const fd of opened) this.open.add(fd);
    return opened;
  }

  duplicate(fd: number): number {
    return checked('dup', dup(fd), 'duplicate');
  }

  openPair(): [number, number] {
    const pair = openPair();
    for (const fd of pair) this.open.add(fd);
    return pair;
  }

  keep(fd: number): void {
    this.open.add(fd);
  }

  handOver(fd: number): void {
    this.open.delete(fd);
  }

  closeDescriptor(fd: number): void {
    this.open.delete(fd);
    close(fd);
  }

  readAccepted(fd: number): AcceptedRecord | undefined {
    const clientPodIndex = this.vouchers.get(readName(getpeername, fd));
    if (clientPodIndex !== undefined) return { kind: 'voucher', clientPodIndex };
    const destination = this.outbound.get(readName(getsockname, fd));
    return destination === undefined ? undefined : { kind: 'outbound', ...destination };
  }

  markOwn(): void {}

  markCarrier(fd: number, clientPodIndex: number): void {
    checked('bind', bind(fd, socketAddress(this.carrierSource, 0), 16), 'carrier');
    this.vouchers.set(readName(getsockname, fd), clientPodIndex);
  }

  markClient(_fd: number, address: string, port: number): void {
    this.clients.push({ ip: address, port });
  }
}

export const anyone: Authorization = {
  networks: [
    { net: '0.0.0.0/0', except: [] },
    { net: '::/0', except: [] },
  ],
  authentication: { kind: 'unauthenticated' },
  labels: { group: '', kind: 'default', name: 'all-unauthenticated' },
  audit: false,
};

export const meshedOnly: Authorization = {
  ...anyone,
  authentication: { kind: 'tls', identities: [], suffixes: [''] },
  labels: { group: '', kind: 'default', name: 'all-authenticated' },
};

export function policy(overrides: Partial<ServerPolicy> = {}): ServerPolicy {
  return {
    protocol: 'detect',
    detectTimeoutMs: 10_000,
    authorizations: [anyone],
    labels: { group: '', kind: 'default', name: 'all-unauthenticated' },
    ...overrides,
  };
}

let podIndex = 0;

export function workerPod(
  name: string,
  addresses: readonly string[],
  netnsFd: number,
  overrides: Partial<WorkerPod> = {},
): WorkerPod {
  podIndex++;
  return {
    cluster: 'local',
    uid: `uid-${name}`,
    namespace: 'shop',
    name: `${name}-0`,
    serviceAccount: name,
    identity: identityOf(name),
    addresses,
    ownerKind: 'deployment',
    ownerName: name,
    netnsFd,
    podIndex,
    generation: 1,
    startedAtSeconds: 1_700_000_000,
    opaquePorts: [],
    skipOutboundPorts: [],
    clientAddressOfProxy: false,
    connectTimeoutOutboundMs: 1_000,
    connectTimeoutInboundMs: 300,
    detectTimeoutOutboundMs: 10_000,
    policies: { byPort: [], fallback: policy() },
    probes: [],
    ...overrides,
  };
}

export function endpoint(address: string, port: number, overrides: Partial<Endpoint> = {}): Endpoint {
  return {
    ip: address,
    port,
    identity: undefined,
    inboundPort: undefined,
    weight: 10_000,
    labels: {},
    localPodUid: undefined,
    ...overrides,
  };
}

export interface TestWorker {
  readonly worker: ProxyWorker;
  readonly kernel: TableKernel;
  readonly log: { readonly lines: LogLine[] };
  readonly destinations: Map<string, Destination>;
  readonly sent: FromWorker[];
  readonly registry: MetricRegistry;
  /** Gives a known destination a new value. */
  setDestination(address: string, value: Destination): void;
  /** Waits for a line with this message. */
  logged(message: string): Promise<LogLine>;
  metrics(uid?: string): Promise<string>;
}

export type Discover = (
  key: string,
  target: { readonly namespace: string; readonly ip: string; readonly port: number },
  deliver: (destination: Destination) => void,
) => { close(): void };

let workers = 0;
/** Of every worker that gets no other: workers and their peers share this process, and so its pauses. */
export const patientClock = new PatientClock();
/** By the clock of the workers: what takes long here took as long for them. */
export const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    patientClock.after(ms, resolve);
  });

/** A worker with the given identities' certificates. */
export async function startWorker(options: {
  readonly authority: TestAuthority;
  readonly accounts: readonly string[];
  readonly sameNode?: SameNode;
  readonly failfastMs?: number;
  readonly anchorsPem?: string;
  /** Who is asked for destinations instead of the table. */
  readonly discover?: Discover;
  readonly clock?: Clock;
}): Promise<TestWorker> {
  const clock = options.clock ?? patientClock;
  const lines: LogLine[] = [];
  const log = recordingLog(lines);
  const kernel = new TableKernel();
  const destinations = new Map<string, Destination>();
  const keys = new Map<string, string>();
  const registry = new MetricRegistry(proxyFamilies, clock);
  const sent: FromWorker[] = [];
  const subscriptions = new Map<string, { close(): void }>();
  const worker = createProxyWorker({
    id: `worker-${++workers}`,
    anchorsPem: options.anchorsPem ?? options.authority.anchorPem,
    sameNode: options.sameNode ?? 'mtls',
    permitKey: Buffer.from('of all workers of a test'),
    discoveryTimeoutMs: 300,
    ...(options.failfastMs === undefined ? {} : { failfastMs: options.failfastMs }),
    kernel,
    clock,
    random: seededRandom(7),
    log,
    post(message) {
      if (message.type === 'metric') {
        registry.define(0, message.definition as MetricDefinition);
        return;
      }
      sent.push(message);
      if (message.type === 'discover' && options.discover !== undefined) {
        const { key } = message;
        const deliver = (destination: Destination): void =>
          worker.handle({ type: 'destination', key, destination });
        subscriptions.set(key, options.discover(key, message, deliver));
      } else if (message.type === 'forget') {
        subscriptions.get(message.key)?.close();
      } else if (message.type === 'discover') {
        const address = `${message.ip}:${message.port}`;
        keys.set(address, message.key);
        const destination = destinations.get(address);
        if (destination === undefined) return;
        setImmediate(() => worker.handle({ type: 'destination', key: message.key, destination }));
      } else if (message.type === 'pod-metrics-wanted') {
        void registry
          .render(message.uid, message.exposition)
          .then((text) => worker.handle({ type: 'pod-metrics', ticket: message.ticket, text }));
      }
    },
  });
  for (const account of options.accounts) {
    const identity = identityOf(account);
    worker.handle({
      type: 'certificate',
      certificate: { identity, ...(await options.authority.leaf(identity)) },
    });
  }
  return {
    worker,
    kernel,
    log: { lines },
    destinations,
    sent,
    registry,
    setDestination(address, destination) {
      destinations.set(address, destination);
      const key = keys.get(address);
      if (key !== undefined) worker.handle({ type: 'destination', key, destination });
    },
    async logged(message) {
      return until(() => lines.find((line) => line.message === message), `the log line "${message}"`);
    },
    async metrics(uid) {
      return registry.render(uid);
    },
  };
}

/** Looks again and again until there is something; for states that no event tells of. */
export async function until<T>(
  look: () => T | undefined | false,
  what: string,
  limitMs = 60_000,
): Promise<T> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    assert.ok(performance.now() < deadline, `waited too long for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** As `until`, on the metrics text. */
export async function untilMetric(worker: TestWorker, pattern: RegExp): Promise<RegExpExecArray> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const text = await worker.metrics();
    const match = pattern.exec(text);
    if (match !== null) return match;
    assert.ok(performance.now() < deadline, `no metric ${String(pattern)} in\n${text}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A server inside a namespace on descriptors of its own. */
export async function serveIn(
  netnsFd: number,
  address: string,
  port: number,
  onConnection: (socket: Socket) => void,
): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, onConnection);
  server.listen({ fd: listenIn(netnsFd, address, port) });
  await once(server, 'listening');
  return server;
}

export { inNamespace, makeTestAuthority };
