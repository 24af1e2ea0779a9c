// SPDX-License-Identifier: Apache-2.0
// The node's agent: wiring only. Control thread here, proxy workers in threads of their own.

import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createLibbpfLoader } from '#lib/bpf/libbpf-loader.ts';
import { systemClock } from '#lib/core/clock.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { createMeshChannel, type DialFailure } from '#lib/grpc/client.ts';
import { firstOf } from '#lib/grpc/server-addresses.ts';
import { connectKeeper } from '#lib/keeper/client.ts';
import { createLog } from '#lib/log/pino.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import type { Exposition } from '#lib/metrics/exposition.ts';
import type { MetricDefinition } from '#lib/metrics/model.ts';
import { close } from '#lib/net/native.ts';
import { listens } from '#lib/net/socket-facts.ts';
import { peerUid } from '#lib/net/peer-uid.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { identityOf } from '#lib/x509/names.ts';
import type { CniNode } from '../cni-plugin/logic/node.ts';
import { type CniServer, serveCni } from '../cni-plugin/logic/server.ts';
import { createAdmin } from './admin/admin.ts';
import { serveProbes } from './admin/probe-server.ts';
import { TapServer } from './admin/tap.ts';
import { loadAgentConfig } from './config.ts';
import { createAccessLogOutput } from './node/access-log-output.ts';
import { certificateMetrics } from './node/certificate-metrics.ts';
import { createCertificates } from './node/certificates.ts';
import { controlFamilies, createControlMetrics } from './node/control-metrics.ts';
import { connectDestination, connectStockLinkerd, type LookupServer } from './node/destination-client.ts';
import { connectionDescriptorsMax, openFilesMax, podConnectionsMax } from './node/descriptor-share.ts';
import { createDiscovery } from './node/discovery.ts';
import { createDiskLists } from './node/disk-lists.ts';
import { createEnrolment } from './node/enrolment.ts';
import type { Sandbox } from './node/enrolment-model.ts';
import { findPodsCgroup } from './node/find-cgroup.ts';
import { processView } from './node/find-namespace.ts';
import { createHandOver, takeKept, whileHolding } from './node/hand-over.ts';
import { createKeeper } from './node/keeper.ts';
import { watchKernelRefusals } from './node/kernel-refusals.ts';
import { createKeptCounts } from './node/kept-counts.ts';
import { createKeptListeners } from './node/kept-listeners.ts';
import { createNamespaceSearch } from './node/namespace-search.ts';
import { createNodeStream } from './node/node-stream.ts';
import { openPodNamespace } from './node/pod-namespace.ts';
import { createProxyWorkers } from './node/proxy-workers.ts';
import { createRedirection } from './node/redirection.ts';
import { nodeMetrics } from './node/node-metrics.ts';
import { encodeSnapshot, type Snapshot } from './node/snapshot.ts';
import { workerThreads } from './node/worker-threads.ts';
import { nodeWorkload } from './node/workload-conversion.ts';
import { createSelfCheck } from './node/self-check.ts';
import { createTestConnects } from './node/test-connects.ts';
import { limitLog } from './proxy/accept/limited-log.ts';
import { proxyFamilies } from './proxy/metrics/families.ts';

const VERSION = ownVersion();
const MAINTAIN_MS = 60_000;
const KEEPER_TIMEOUT_MS = 1_000;
/** Destinations that a later agent is told of; 1000 cost the control thread about 7 ms at most once a second. */
const DESTINATIONS_KEPT_MAX = 2_000;
/** How long the role is claimed later than could be, for pods of an earlier agent to be served first. */
const SETTLE_MS = 5_000;
const SETTLE_POLL_MS = 10;
/** A connect is cheap, a stream's start is not: its own pause is 5 s at most (node/back-off.ts), jittered as this is. */
const RECONNECT_MAX_MS = 2_000;
const STANDBY_POLL_MS = 200;
const PERMIT_KEY_BYTES = 32;

// What it is not given or does not find here is for whoever installs it; anything else is a fault, with its trace.
process.once('uncaughtException', (error) => {
  const unfit =
    error instanceof MeshError && (error.code === 'MESH_CONFIG_INVALID' || error.code === 'MESH_HOST_UNFIT');
  if (unfit)
    process.stderr.write(`agent: ${error.message}${error.remedy === undefined ? '' : `; ${error.remedy}`}\n`);
  else console.error(error);
  process.exit(1);
});
const config = loadAgentConfig(process.env);
const log = createLog('agent', config.logLevel).child({ node: config.nodeName });
const clock = systemClock;
const random = Math.random;
const common = { clock, random, log };

for (const folder of [config.runDir, config.stateDir]) {
  mkdirSync(folder, { recursive: true });
  // The kubelet makes the folders of a volume open to everybody.
  chmodSync(folder, 0o700);
}
const found = config.podsCgroup === '' ? findPodsCgroup(config.cgroupMount, config.podUid) : undefined;
const podsCgroup = found?.path ?? config.podsCgroup;
const nodeCgroup = config.nodeCgroup || podsCgroup;
if (found !== undefined) log.info({ ...found }, 'found the cgroup of the pods');
const lists = createDiskLists({ runDir: config.runDir, stateDir: config.stateDir, log });

// Until this agent holds the role an earlier one may still run, and what both could write is left to that one.
lists.setActive(false);
const keeper = createKeeper({
  ...common,
  connect: () => connectKeeper(config.keeperSocket, { timeoutMs: KEEPER_TIMEOUT_MS }),
  snapshot: () =>
    encodeSnapshot({
      writtenAtMs: clock.wallMs(),
      workloads: nodeStream.workloads,
      namespaces,
      sandboxes: enrolment.sandboxes,
      pods: enrolment.podIndices,
      certificates: certificates.held(),
      destinations: discovery.known(DESTINATIONS_KEPT_MAX),
      permitKey,
    }),
  onRole: (role) => handOver.change(role),
  onForgotten: () => void enrolment.repairListeners(),
});
const keptListeners = createKeptListeners({
  keeper,
  listens,
  closeDescriptor: (fd) => void close(fd),
  log,
});
const earlier = takeKept(keeper, keptListeners, () => false, log);
let namespaces = earlier?.namespaces;
/** The same in both agents of an upgrade: each accepts what the other one dials. */
const permitKey = earlier?.permitKey ?? randomBytes(PERMIT_KEY_BYTES).toString('base64');

const metrics = new MetricRegistry([...proxyFamilies, ...controlFamilies], clock);
const controlMetrics = createControlMetrics(metrics, config.nodeName, clock);
/** An outage is a line for each of the first dials, and then a count. */
const dialLog = limitLog(log, clock);
const dialFailure =
  (what: string) =>
  ({ address, next, error }: DialFailure): void =>
    dialLog.warn({ address, next, error: errorMessage(error) }, `${what} cannot be reached`);
const certificates = createCertificates({
  ...common,
  interceptor: controlMetrics.interceptor(firstOf(config.identityAddress), config.identityName),
  onDialFailure: dialFailure('identity'),
  restored: earlier?.certificates ?? [],
  identityAddress: config.identityAddress,
  identityName: config.identityName,
  tokenFile: config.identityTokenFile,
  anchorsFile: config.anchorsFile,
});
const ownIdentity = identityOf(
  { name: config.serviceAccount, namespace: config.namespace },
  { identityNamespace: config.identityNamespace, trustDomain: config.trustDomain },
);
certificates.want(ownIdentity);

const controlServer = (what: string, address: string, serverIdentity: string): LookupServer => ({
  address,
  channel: createMeshChannel({
    serverIdentity,
    material: () => ({ anchorsPem: certificates.anchorsPem(), certificate: certificates.get(ownIdentity) }),
    reconnectMaxMs: RECONNECT_MAX_MS,
    onDialFailure: dialFailure(what),
  }),
  interceptor: controlMetrics.interceptor(firstOf(address), serverIdentity),
});
const destination = connectDestination(
  controlServer('destination', config.destinationAddress, config.destinationName),
);
const stock = config.linkerdDestinationAddress !== '';
const lookups = stock
  ? connectStockLinkerd(
      controlServer("Linkerd's destination", config.linkerdDestinationAddress, config.linkerdDestinationName),
      controlServer("Linkerd's policy service", config.linkerdPolicyAddress, config.linkerdPolicyName),
    )
  : destination;
if (stock) {
  log.info(
    { destination: config.linkerdDestinationAddress, policy: config.linkerdPolicyAddress },
    'endpoints, profiles and outbound policies are those of a stock Linkerd; pods that it does not know as meshed are reached in plain text',
  );
}

const redirection = createRedirection({
  bpffs: config.bpffs,
  objectsDir: config.bpfObjects,
  podsCgroup,
  nodeCgroup,
  slots: config.slots,
  inflightMax: config.inflightMax,
  loader: createLibbpfLoader(),
  log,
});

const discovery = createDiscovery({
  ...common,
  // A pod that scans addresses must not flood it.
  log: limitLog(log, clock),
  client: lookups.destination,
  policies: lookups.policies,
  stock,
  nodeName: config.nodeName,
  localPods: (ip) => enrolment.podOfAddress(ip),
  restored: earlier?.destinations ?? [],
  changed: () => keeper.touch(),
});
const limits = readFileSync('/proc/self/limits', 'utf8');
const accessLog = createAccessLogOutput();
const workers = createProxyWorkers({
  clock,
  log,
  count: config.workers,
  ...workerThreads(new URL('./proxy/worker.ts', import.meta.url), log),
  start: {
    logLevel: config.logLevel,
    sameNode: config.sameNode,
    permitKey,
    kernel: redirection.kernel,
    controlPlaneNamespace: config.identityNamespace,
    failfastMs: config.failfastMs,
    podConnectionsMax: podConnectionsMax(limits, config.workers),
    ...(Number.isFinite(openFilesMax(limits)) ? { descriptorsMax: connectionDescriptorsMax(limits) } : {}),
  },
  anchorsPem: certificates.anchorsPem(),
  discover: (key, target, deliver) => discovery.subscribe(key, target, deliver),
  metricDefined: (worker, definition) => metrics.define(worker, definition as MetricDefinition),
  podMetrics: async (uid, exposition) => renderMetrics(uid, exposition),
  accessLog: (pieces, done) => accessLog.take(pieces, done),
  applicationRefused: (uid) => redirection.refreshListeners(uid),
});
certificates.onChange((certificate) => {
  workers.setCertificate(certificate);
  keeper.touch();
});
certificates.onAnchors((pem) => workers.setAnchors(pem));

/** Asked for when the list for the CNI plugin is written. */
const wantedPods = (): string[] => enrolment.pods.filter(({ wanted }) => wanted).map(({ uid }) => uid);
const enrolment = createEnrolment({
  ...common,
  redirection,
  workers,
  certificates: {
    want: (identity) => certificates.want(identity),
    ready: async (identity) => certificates.ready(identity),
    drop: (identity) => {
      certificates.drop(identity);
      workers.dropCertificate(identity);
    },
  },
  openNamespace: openPodNamespace,
  listeners: keptListeners,
  reporter: {
    report: (...report) => {
      nodeStream.report(...report);
      keeper.touch();
      lists.podsChanged(wantedPods);
      discovery.localPodsChanged();
      if (!sweptOnce) setImmediate(sweep);
    },
  },
  sandboxesChanged: (sandboxes) => {
    lists.setSandboxes(sandboxes);
    keeper.touch();
  },
  podForgotten: () => undefined,
  sandboxMissing: () => search.wake(),
  leaveGraceMs: config.leaveGraceMs,
  leaveLimitMs: config.leaveLimitMs,
});
const search = createNamespaceSearch({
  ...common,
  view: processView(config.hostProc),
  missing: () => enrolment.missing,
  placed: () => enrolment.found,
  found: (uid, netnsPath) => enrolment.setFound(uid, netnsPath),
  notFound: (uid) => enrolment.setNotFound(uid),
  gone: (uid) => enrolment.setFoundGone(uid),
});
const selfCheck = createSelfCheck({
  ...common,
  redirection: whileHolding(redirection, () => keeper.role === 'holder'),
  pods: () =>
    enrolment.pods
      .filter(({ phase }) => phase === 'enrolled')
      .map(({ uid, namespace, name, netnsPath }) => ({ uid, name: `${namespace}/${name}`, netnsPath })),
  testConnects: createTestConnects({
    program: config.connectTest,
    podsCgroup: found?.hasAgent === true ? undefined : podsCgroup,
    log,
  }),
  repairListeners: (uid) => enrolment.repairListeners(uid),
  failed: (uid, message) => enrolment.setProblem(uid, message),
  recovered: (uid) => enrolment.setProblem(uid, undefined),
  inodeOf: (path) => statSync(path, { bigint: true, throwIfNoEntry: false })?.ino,
  intervalMs: config.selfCheckIntervalMs,
});
const refusals = watchKernelRefusals({
  counters: () => redirection.counters(),
  busiest: () => {
    const found = redirection.busiest();
    const pod = enrolment.pods.find(({ uid }) => uid === found?.uid);
    return (
      found && {
        pod: pod === undefined ? found.uid : `${pod.namespace}/${pod.name}`,
        inflight: found.inflight,
      }
    );
  },
  ...common,
});
const taps = new TapServer({
  open: (namespace, name, wish, heard) => {
    const pod = enrolment.pods.find((one) => one.namespace === namespace && one.name === name);
    if (pod === undefined) return undefined;
    return workers.tap(pod.uid, wish, (worker, event) => heard(`${worker}-${event.id}`, event));
  },
});
certificateMetrics(metrics, {
  enrolment,
  certificates,
  controlPlaneNamespace: config.identityNamespace,
});
nodeMetrics(metrics, {
  taps,
  nodeName: config.nodeName,
  startedAtSeconds: clock.wallMs() / 1000,
  redirection,
  enrolment,
  workers,
  selfCheck,
  discovery,
  keeper,
  keptListeners,
  lists,
  accessLog,
  version: VERSION,
  openFilesMax: openFilesMax(limits),
});

enrolment.setEarlier(lists.earlier);
const sandboxes = lists.readSandboxes() ?? earlier?.sandboxes;
let snapshotSeen = false;
/** A pod that left the mesh while no agent was there is closed until its redirection is ended. */
let sweptOnce = false;
const sweep = (): void => {
  if (!snapshotSeen || !enrolment.settled || stopping || keeper.role !== 'holder') return;
  // At once after a start: what an earlier agent left may have been hurt since.
  if (!sweptOnce) void selfCheck.run();
  sweptOnce = true;
  // Without the list of an earlier agent, a living pod that nobody claims is not known to have opted out.
  const swept = redirection.sweep(sandboxes === undefined ? 'dead' : 'all');
  if (swept > 0) log.info({ pods: swept }, 'ended the redirection of pods that are gone');
  keptListeners.sweep();
};
let stopping = false;
const isStopping = (): boolean => stopping;
const nodeStream = createNodeStream({
  ...common,
  client: destination.node,
  nodeName: config.nodeName,
  cluster: config.cluster,
  version: VERSION,
  features: ['http2'],
  restored: earlier?.workloads ?? [],
  token: async () => {
    await certificates.ready(ownIdentity);
    return readFileSync(config.destinationTokenFile, 'utf8');
  },
  handlers: {
    onWorkload: (workload) => {
      enrolment.setWorkload(workload);
      lists.podsChanged(wantedPods);
      keeper.touch();
    },
    onRemoved: (uid) => {
      enrolment.removeWorkload(uid);
      keeper.touch();
    },
    onWithdrawn: (uid) => enrolment.withdrawn(uid),
    onSnapshotEnd: () => {
      if (snapshotSeen) return;
      snapshotSeen = true;
      lists.forgetEarlierPods();
      log.info({ pods: enrolment.pods.length }, 'destination has told all workloads of the node');
      setImmediate(sweep);
    },
    onNamespaces: (names) => {
      namespaces = names;
      keeper.touch();
      enrolment.setNamespaces(names);
      lists.setNamespaces(names);
    },
    onState: () => undefined,
  },
});
const keptCounts = createKeptCounts({
  folder: join(config.runDir, 'counts'),
  instance: nodeStream.instanceId,
  registry: metrics,
  clock,
  log,
});
const renderMetrics = async (uid: string | undefined, exposition: Exposition): Promise<string> => {
  keptCounts.read();
  return metrics.render(uid, exposition);
};
/** Sandboxes that another agent of this node has heard of, and what it left for them. */
const restore = (known: readonly Sandbox[], left: Snapshot | undefined): void => {
  const indices = new Map(left?.pods.map(({ uid, podIndex }) => [uid, podIndex]));
  enrolment.restore(
    known.filter(({ netnsPath }) => existsSync(netnsPath)),
    indices,
  );
};
const catchUp = (): void => {
  const here = new Set(enrolment.pods.filter(({ identity }) => identity !== '').map(({ uid }) => uid));
  const left = takeKept(keeper, keptListeners, (uid) => here.has(uid), log);
  restore(lists.readSandboxes() ?? [], left);
};

if (earlier !== undefined) {
  log.info(
    { pods: earlier.pods.length, ageMs: clock.wallMs() - earlier.writtenAtMs },
    'serving from what an earlier agent knew until the control plane answers',
  );
  for (const workload of earlier.workloads) enrolment.setWorkload(nodeWorkload(workload));
  if (namespaces !== undefined) enrolment.setNamespaces(namespaces);
}
restore(sandboxes ?? [], earlier);

const notReady = (): string | undefined => {
  if (certificates.get(ownIdentity) === undefined) return `no certificate of ${ownIdentity} so far`;
  if (snapshotSeen || earlier !== undefined) return undefined;
  return 'destination has not told the workloads of this node so far';
};
/** What the kubelet is told, also while another agent has the node's port. */
let probeAnswer = (): string | undefined => 'it starts';
const probes =
  config.probeSocket === '' ? undefined : await serveProbes(config.probeSocket, () => probeAnswer());

await workers.ready;
// The pods of the earlier agent first: whoever claims the role serves them.
for (const deadline = clock.nowMs() + SETTLE_MS; !enrolment.settled && clock.nowMs() < deadline; )
  await sleep(SETTLE_POLL_MS);
const cniNode: CniNode = {
  addPod: async (pod) => enrolment.addPod(pod),
  checkPod: async (pod) => enrolment.checkPod(pod),
  removePod: async (...pod) => enrolment.removePod(...pod),
  keepOnly: async (...list) => {
    await enrolment.keepOnly(...list);
    // The runtime has compared its pods with ours, as it does after its own restarts.
    void selfCheck.run();
  },
};
const openCni = async (): Promise<CniServer> =>
  serveCni(join(config.runDir, 'cni.sock'), cniNode, log, {
    tombstones: join(config.runDir, 'tombstones'),
  });
let cni = await openCni();
keeper.hold();
nodeStream.setReporting(true);
const admin = await createAdmin({
  host: config.nodeIps[0] ?? '127.0.0.1',
  port: config.metricsPort,
  socketPath: join(config.runDir, 'agent.sock'),
  peerUid,
  metrics: async (exposition) => renderMetrics(undefined, exposition),
  notReady,
  state: () => ({
    version: VERSION,
    instance: nodeStream.instanceId,
    role: keeper.role,
    connected: nodeStream.connected,
    keeper: { connected: keeper.connected, failures: keeper.failures, lastSnapshot: keeper.lastSnapshot },
    pods: enrolment.pods,
    workersReplaced: workers.replaced,
    discovery: discovery.streams,
    kernel: Object.fromEntries(redirection.counters()),
    selfCheck: selfCheck.state,
  }),
  selfCheck: async () => selfCheck.run(),
  tap: taps,
  clock,
  log,
});
probeAnswer = () =>
  keeper.role === 'holder' && admin.port === undefined
    ? 'an earlier agent of this node has not handed over its port so far'
    : notReady();
// An earlier agent gives the port up last: what it has heard of until then is taken over once more.
void Promise.race([admin.bound, sleep(SETTLE_MS)]).then(() => {
  if (keeper.role !== 'holder') return;
  catchUp();
  lists.setActive(true);
});
const maintenance = setInterval(() => {
  if (keeper.role !== 'holder') return;
  redirection.maintain();
  sweep();
}, MAINTAIN_MS);
log.info({ version: VERSION, workers: config.workers }, 'the agent serves');
// With NODE_COMPILE_CACHE: a start that finds everything there needs no TypeScript compiler, 25 MB a thread.
flushCompileCache();

const end = async (): Promise<void> => {
  // Last words first: what the next agent finds.
  keeper.close();
  await cni.close();
  nodeStream.close();
  search.close();
  refusals.close();
  discovery.close();
  lookups.close();
  destination.close();
  await workers.close();
  // Before the port and the socket, which tell others that this agent has ended.
  keptCounts.close();
  enrolment.close();
  certificates.close();
  redirection.close();
  lists.flush();
  await admin.close();
  probes?.close();
};
let ending: Promise<void> | undefined;
const exit = (): void => {
  ending ??= end().then(
    () => process.exit(0),
    (error: unknown) => {
      log.error({ error: errorMessage(error) }, 'the agent did not stop in order');
      process.exit(1);
    },
  );
};
const handOver = createHandOver({
  parts: [
    {
      name: 'CNI socket',
      giveUp: async () => cni.close(),
      take: async () => {
        cni = await openCni();
      },
    },
    {
      name: 'pods',
      giveUp: () => enrolment.setActive(false),
      take: () => {
        catchUp();
        enrolment.setActive(true);
      },
    },
    { name: 'listeners', giveUp: () => workers.stopAccepting(), take: () => workers.resume() },
    {
      name: 'reports',
      giveUp: () => nodeStream.setReporting(false),
      take: () => nodeStream.setReporting(true),
    },
    { name: 'lists', giveUp: () => lists.setActive(false), take: () => lists.setActive(true) },
    {
      name: 'port',
      // In one turn: a scrape in between would see more than the next agent goes on from.
      giveUp: async () => {
        keptCounts.giveUp();
        await admin.release();
      },
      take: async () => {
        keptCounts.take();
        await admin.take();
      },
    },
  ],
  drain: async () => {
    const begun = clock.nowMs();
    await workers.drain(config.drainGraceMs);
    // Not told to end yet: the role may come back.
    while (!isStopping() && clock.nowMs() - begun < config.drainGraceMs) await sleep(STANDBY_POLL_MS);
  },
  done: exit,
  failed: (part, error) => log.error({ part, error: errorMessage(error) }, 'a hand-over is incomplete'),
  log,
});

const stop = async (signal: string): Promise<void> => {
  if (stopping) return;
  stopping = true;
  log.info({ signal, graceMs: config.drainGraceMs }, 'the agent drains; pods stay redirected');
  keeper.retire();
  clearInterval(maintenance);
  // A successor mends from now on.
  selfCheck.close();
  // The CNI socket stays to the end too: pods start meanwhile, and a successor puts its own in its place.
  await workers.drain(config.drainGraceMs);
  exit();
};
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal));
