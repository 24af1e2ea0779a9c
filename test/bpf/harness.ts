// SPDX-License-Identifier: Apache-2.0
// A node and pods for tests of the redirection, on real sockets: own cgroups, own bpffs, own network namespaces, the
// test's process as the agent, test/bpf/app.c as the applications. Everything carries the test file's tag, so that
// what a killed run left is found and removed at the next start. No proxy here: the stub agent says what it accepted.

import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer, type Server, Socket, type SocketConstructorOpts } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { createLibbpfLoader } from '#lib/bpf/libbpf-loader.ts';
import { encodeCookie, kinds, LAYOUT, structs, u64, writeAddress, writeU32 } from '#lib/bpf/abi.ts';
import type { BpfLoader, BpfMap } from '#lib/bpf/loader.ts';
import { type AcceptedRecord, createSocketRecords, type SocketRecords } from '#lib/bpf/socket-records.ts';
import { requireIp } from '#lib/core/addresses.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { checked, close, dup } from '#lib/net/native.ts';
import { closeNamespace, openNamespace } from '#lib/net/netns.ts';
import { LISTEN_BACKLOG, openListener, openSockets } from '#lib/net/sockets.ts';
import type { RedirectedPodHandle } from '../../agent/node/redirected-pod.ts';
import {
  createRedirection,
  type KernelRedirection,
  type RedirectionOptions,
} from '../../agent/node/redirection.ts';
import type { RedirectedPod } from '../../agent/node/redirection-types.ts';

export const repository = join(import.meta.dirname, '../..');
const build = join(repository, 'build');
export const objectsDir = join(build, 'bpf');
const appBinary = join(build, 'test-app');

/** Answers of one call may take this long on a busy machine. */
const ANSWER_MS = 20_000;

function run(program: string, ...args: readonly string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Objects and helper, made once though several test files start at a time. */
export function buildOnce(): void {
  mkdirSync(build, { recursive: true });
  const script =
    'make -s -C bpf OUT=../build/bpf && { [ build/test-app -nt test/bpf/app.c ] || gcc -O1 -Wall -o build/test-app test/bpf/app.c; }';
  execFileSync('flock', [join(build, '.bpf-test.lock'), 'sh', '-ec', script], {
    cwd: repository,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

export function cgroup2Mount(): string {
  const line = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find((mount) => mount.split(' ')[2] === 'cgroup2');
  const path = line?.split(' ')[1];
  if (path === undefined) throw new Error('no cgroup2 is mounted');
  return path;
}

/** Cgroups can only be removed when they are empty, deepest first. */
function removeCgroup(path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeCgroup(join(path, entry.name));
  for (const pid of readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)) {
    if (Number(pid) === process.pid) writeFileSync(join(cgroup2Mount(), 'cgroup.procs'), pid);
    else process.kill(Number(pid), 'SIGKILL');
  }
  for (let attempt = 0; ; attempt++) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      /** A killed process leaves its cgroup a moment later. */
      if (attempt >= 200) throw error;
      execFileSync('sleep', ['0.02']);
    }
  }
}

function sweep(tag: string, bpffs: string): void {
  for (const name of existsSync('/run/netns') ? readdirSync('/run/netns') : [])
    if (name.startsWith(`nmb-${tag}-`)) removeNamespace(name);
  removeCgroup(join(cgroup2Mount(), `nmb-${tag}`));
  unmountAll(bpffs);
}

export function removeNamespace(name: string): void {
  if (existsSync(`/run/netns/${name}`)) run('ip', 'netns', 'del', name);
}

export function unmountAll(path: string): void {
  while (readFileSync('/proc/mounts', 'utf8').includes(` ${path} bpf `)) run('umount', path);
}

export interface Accepted {
  readonly direction: 'inbound' | 'outbound';
  readonly slot: number;
  readonly record: AcceptedRecord | undefined;
  readonly local: string;
  readonly remote: string;
  readonly socket: Socket;
}

/** One application process. */
export class App {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  readonly ended: Promise<void>;

  constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    child.stderr.pipe(process.stderr);
    this.ended = new Promise((resolve) => {
      child.once('exit', () => resolve());
    });
  }

  /** One call; its answer. */
  async call(line: string): Promise<string> {
    this.#child.stdin.write(`${line}\n`);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer to "${line}"`)), ANSWER_MS);
    });
    const answer = await Promise.race([this.#lines.next(), late]);
    clearTimeout(timer);
    if (answer.done === true) throw new Error(`the application ended at "${line}"`);
    return answer.value;
  }

  async close(): Promise<void> {
    this.#child.stdin.end();
    this.#child.kill('SIGKILL');
    await this.ended;
  }
}

export interface PodOptions {
  readonly skipOutboundPorts?: RedirectedPod['skipOutboundPorts'];
  readonly skipInboundPorts?: RedirectedPod['skipInboundPorts'];
  readonly skipSubnets?: readonly string[];
}

export class TestPod {
  readonly netns: string;
  readonly netnsFd: number;
  readonly ip4: string;
  readonly ip6: string;
  readonly accepted: Accepted[] = [];
  readonly #node: TestNode;
  readonly #index: number;
  readonly #options: PodOptions;
  readonly #waiting: (() => void)[] = [];
  readonly #servers: Server[] = [];
  readonly #listeners: number[] = [];
  readonly #apps: App[] = [];
  #vanished = false;
  redirected: RedirectedPodHandle | undefined;

  constructor(node: TestNode, netns: string, index: number, options: PodOptions) {
    this.#node = node;
    this.#index = index;
    this.#options = options;
    this.netns = netns;
    this.netnsFd = openNamespace(`/run/netns/${netns}`);
    this.ip4 = `10.77.0.${10 + index}`;
    this.ip6 = `fd77::${(16 + index).toString(16)}`;
  }

  get description(): RedirectedPod {
    return {
      uid: this.netns,
      podIndex: this.#index,
      netnsFd: this.netnsFd,
      addresses: [this.ip4, this.ip6],
      skipOutboundPorts: this.#options.skipOutboundPorts ?? [],
      skipInboundPorts: this.#options.skipInboundPorts ?? [],
      skipSubnets: this.#options.skipSubnets ?? [],
    };
  }

  /** Redirects the pod and answers on all listeners. */
  enrol(): void {
    this.redirected = this.#node.redirection.preparePod(this.description);
    this.listen();
    this.redirected.arm(this.description);
  }

  listen(directions: readonly ('inbound' | 'outbound')[] = ['inbound', 'outbound']): void {
    for (const direction of directions)
      for (const family of [4, 6] as const)
        for (let slot = 0; slot < this.#node.redirection.slots; slot++) this.#listen(direction, family, slot);
  }

  #listen(direction: 'inbound' | 'outbound', family: 4 | 6, slot: number): void {
    const fd = openListener(this.netnsFd, family);
    this.#listeners.push(fd);
    this.redirected?.setListener(direction, family, slot, fd);
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(direction, slot, socket));
    server.listen({ fd: checked('dup', dup(fd), 'a test') }, LISTEN_BACKLOG);
    this.#servers.push(server);
  }

  #accept(direction: 'inbound' | 'outbound', slot: number, socket: Socket): void {
    socket.on('error', () => socket.destroy());
    socket.on('end', () => socket.end());
    socket.resume();
    const record = this.#node.records.readAccepted(descriptorOf(socket));
    this.accepted.push({
      direction,
      slot,
      record,
      local: `${socket.localAddress} ${socket.localPort}`,
      remote: `${socket.remoteAddress} ${socket.remotePort}`,
      socket,
    });
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** The next connection that the stub agent accepted for this pod. */
  async next(): Promise<Accepted> {
    while (this.accepted.length === 0)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    const [first] = this.accepted.splice(0, 1);
    if (first === undefined) throw new Error('nothing accepted');
    return first;
  }

  /** Ends the stub agent's listeners, as a death of the agent would. */
  async stopListening(): Promise<void> {
    await Promise.all(
      this.#servers.splice(0).map(
        (server) =>
          new Promise<void>((resolve) => {
            server.close(() => resolve());
            for (const { socket } of this.accepted) socket.destroy();
            server.unref();
            resolve();
          }),
      ),
    );
    for (const fd of this.#listeners.splice(0)) close(fd);
  }

  /** The pod's namespace goes, while its redirection is still there: nothing of the agent may hold it. */
  async vanish(): Promise<void> {
    await this.stopListening();
    closeNamespace(this.netnsFd);
    this.#vanished = true;
    removeNamespace(this.netns);
  }

  /** An application in this pod; `wrap` is put before its command (setpriv …). */
  app(wrap: readonly string[] = []): App {
    const app = this.#node.start(this.netns, this.#node.podsCgroup, [...wrap, appBinary]);
    this.#apps.push(app);
    return app;
  }

  async close(): Promise<void> {
    await this.stopListening();
    await Promise.all(this.#apps.map((app) => app.close()));
    this.redirected?.close();
    if (!this.#vanished) closeNamespace(this.netnsFd);
  }
}

/** Node keeps the descriptor to itself; for tests this is good enough. */
export function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  if (typeof fd !== 'number') throw new Error('the socket has no descriptor');
  return fd;
}

export class TestNode {
  readonly bpffs: string;
  readonly nodeCgroup: string;
  readonly podsCgroup: string;
  readonly hub: string;
  readonly loader: BpfLoader;
  readonly logLines: LogLine[] = [];
  redirection: KernelRedirection;
  records: SocketRecords;
  readonly #tag: string;
  readonly #options: Partial<RedirectionOptions>;
  readonly #pods: TestPod[] = [];
  readonly #apps: App[] = [];

  constructor(tag: string, options: Partial<RedirectionOptions> = {}) {
    this.#tag = tag;
    this.#options = options;
    buildOnce();
    this.bpffs = `/run/nmb-${tag}-bpf`;
    sweep(tag, this.bpffs);
    mkdirSync(this.bpffs, { recursive: true });
    run('mount', '-t', 'bpf', 'bpf', this.bpffs);
    this.nodeCgroup = join(cgroup2Mount(), `nmb-${tag}`);
    this.podsCgroup = join(this.nodeCgroup, 'pods');
    for (const path of [this.podsCgroup, join(this.nodeCgroup, 'agent')])
      mkdirSync(path, { recursive: true });
    /** As the real agent: below the cgroup that sockops hangs on, not below the pods'. */
    writeFileSync(join(this.nodeCgroup, 'agent/cgroup.procs'), String(process.pid));
    this.hub = `nmb-${tag}-hub`;
    run('ip', 'netns', 'add', this.hub);
    for (const args of [
      ['link', 'set', 'lo', 'up'],
      /** A bridge without an address of its own takes the lowest of its ports: it would change with each pod, and
       * a pod that has the old one in its neighbour table reaches nobody for half a minute or more. */
      ['link', 'add', 'br0', 'address', '0a:77:00:00:00:01', 'type', 'bridge'],
      ['addr', 'add', '10.77.0.1/24', 'dev', 'br0'],
      ['addr', 'add', 'fd77::1/64', 'dev', 'br0', 'nodad'],
      ['link', 'set', 'br0', 'up'],
    ])
      run('ip', '-n', this.hub, ...args);
    this.loader = this.#options.loader ?? createLibbpfLoader();
    this.redirection = this.restart();
    this.records = createSocketRecords(this.redirection.kernel);
  }

  /** Redirection with this node's places, also to be called a second time: a restarted agent. */
  restart(options: Partial<RedirectionOptions> = {}): KernelRedirection {
    this.redirection = createRedirection({
      bpffs: this.bpffs,
      objectsDir,
      podsCgroup: this.podsCgroup,
      nodeCgroup: this.nodeCgroup,
      slots: 2,
      log: recordingLog(this.logLines),
      loader: this.loader,
      ...this.#options,
      ...options,
    });
    this.records = createSocketRecords(this.redirection.kernel);
    return this.redirection;
  }

  /** A namespace with addresses of both families; enrolled by `enrol()`. */
  pod(name: string, options: PodOptions = {}): TestPod {
    const index = this.#pods.length + 1;
    const netns = `nmb-${this.#tag}-${name}`;
    run('ip', 'netns', 'add', netns);
    run(
      'ip',
      '-n',
      this.hub,
      'link',
      'add',
      `v${index}`,
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      netns,
    );
    run('ip', '-n', this.hub, 'link', 'set', `v${index}`, 'master', 'br0', 'up');
    const pod = new TestPod(this, netns, index, options);
    for (const args of [
      ['link', 'set', 'lo', 'up'],
      ['addr', 'add', `${pod.ip4}/24`, 'dev', 'eth0'],
      ['addr', 'add', `${pod.ip6}/64`, 'dev', 'eth0', 'nodad'],
      ['link', 'set', 'eth0', 'up'],
      ['route', 'add', 'default', 'via', '10.77.0.1'],
      ['-6', 'route', 'add', 'default', 'via', 'fd77::1'],
    ])
      run('ip', '-n', netns, ...args);
    this.#pods.push(pod);
    return pod;
  }

  /** An application outside all pods. */
  outsider(): App {
    const app = this.start(this.hub, this.nodeCgroup, [appBinary]);
    this.#apps.push(app);
    return app;
  }

  start(netns: string, cgroup: string, command: readonly string[]): App {
    const place = join(cgroup, cgroup === this.podsCgroup ? netns : 'outside');
    mkdirSync(place, { recursive: true });
    const script =
      'place=$1 netns=$2; shift 2; echo 0 > "$place/cgroup.procs"; exec nsenter "--net=/run/netns/$netns" -- "$@"';
    return new App(spawn('sh', ['-c', script, 'sh', place, netns, ...command], { stdio: 'pipe' }));
  }

  /** Upstream sockets of the agent in a pod. */
  upstream(pod: TestPod, family: 4 | 6): number {
    const [fd] = openSockets(pod.netnsFd, family, 1);
    if (fd === undefined) throw new Error('no socket');
    return fd;
  }

  /** What is made during `make` belongs to the cgroup of the pods, where the connect hooks hang. */
  amongPods<T>(make: () => T): T {
    const place = join(this.podsCgroup, 'agent');
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, 'cgroup.procs'), String(process.pid));
    try {
      return make();
    } finally {
      writeFileSync(join(this.nodeCgroup, 'agent/cgroup.procs'), String(process.pid));
    }
  }

  /** Connects a marked descriptor; the socket owns it from then on. */
  async connectFd(fd: number, host: string, port: number): Promise<Socket> {
    const socket = new Socket({ fd, manualStart: true } as SocketConstructorOpts);
    socket.connect({ host, port });
    await once(socket, 'connect');
    return socket;
  }

  #map(name: string): BpfMap {
    const map = this.loader.openMap(join(this.bpffs, 'nodemesh', String(LAYOUT), 'maps', name));
    if (map === undefined) throw new Error(`${name} is not pinned`);
    return map;
  }

  /** As if noting a listening socket of the pod had failed. */
  forgetListeners(pod: TestPod): void {
    const lost = this.#map('nm_lost');
    lost.update(encodeCookie(pod.redirected?.cookie ?? 0n), u64(1n));
    lost.close();
  }

  /** Writes a carrier's record as the programs do, but for a SYN that nobody sends. */
  plantVoucher(
    source: { ip: string; port: number },
    target: { ip: string; port: number },
    podIndex: number,
  ): void {
    const flow = Buffer.alloc(structs.nm_flow.size);
    writeAddress(flow, requireIp(source.ip, 'source'), structs.nm_flow.fields.source);
    writeAddress(flow, requireIp(target.ip, 'target'), structs.nm_flow.fields.target);
    flow.writeUInt16BE(source.port, structs.nm_flow.fields.source_port);
    flow.writeUInt16BE(target.port, structs.nm_flow.fields.target_port);
    const record = Buffer.alloc(structs.nm_record.size);
    writeU32(record, kinds.carrier, structs.nm_record.fields.kind);
    writeU32(record, podIndex, structs.nm_record.fields.pod);
    const inflight = this.#map('nm_inflight');
    inflight.update(flow, record);
    inflight.close();
  }

  listenEntries(): number {
    const listen = this.#map('nm_listen');
    const count = listen.keys().length;
    listen.close();
    return count;
  }

  /** Entries of unfinished handshakes. */
  inflight(): number {
    return this.redirection.counters().get('inflight') ?? -1;
  }

  async close(): Promise<void> {
    const failures: string[] = [];
    for (const pod of this.#pods)
      await pod.close().catch((error: unknown) => failures.push(errorMessage(error)));
    await Promise.all(this.#apps.map((app) => app.close()));
    this.redirection.uninstall();
    sweep(this.#tag, this.bpffs);
    rmdirSync(this.bpffs);
    if (failures.length > 0) throw new Error(failures.join('; '));
  }
}

/** Waits until `holds`, looking every few milliseconds; for kernel state that changes without an event. */
export async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let attempt = 0; attempt < 3_000; attempt++) {
    if (await holds()) return;
    await new Promise((resolve) => {
      setTimeout(resolve, 10);
    });
  }
  throw new Error(`never came: ${what}`);
}

export function shell(program: string, ...args: readonly string[]): string {
  return run(program, ...args);
}
