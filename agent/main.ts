// SPDX-License-Identifier: Apache-2.0
// The node's agent: wiring only. Control thread here, proxy workers in threads of their own.

import { existsSync, fstatSync, mkdirSync, readFileSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { createLibbpfLoader } from '#lib/bpf/libbpf-loader.ts';
import { systemClock } from '#lib/core/clock.ts';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import { createMeshChannel } from '#lib/grpc/client.ts';
import { createLog } from '#lib/log/pino.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import type { MetricDefinition } from '#lib/metrics/model.ts';
import { DescriptorTable } from '#lib/net/descriptor-table.ts';
import { checked, close, dup } from '#lib/net/native.ts';
import { peerUid } from '#lib/net/peer-uid.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { identityOf } from '#lib/x509/names.ts';
import { serveCni } from '../cni-plugin/logic/server.ts';
import { createAdmin } from './admin/admin.ts';
import { loadAgentConfig } from './config.ts';
import { createCertificates } from './node/certificates.ts';
import { connectDestination } from './node/destination-client.ts';
import { createDiscovery } from './node/discovery.ts';
import { createDiskLists } from './node/disk-lists.ts';
import { createEnrolment } from './node/enrolment.ts';
import { createNodeStream } from './node/node-stream.ts';
import { openPodNamespace } from './node/pod-namespace.ts';
import { createProxyWorkers } from './node/proxy-workers.ts';
import { createRedirection } from './node/redirection.ts';
import { nodeMetrics } from './node/node-metrics.ts';
import { limitLog } from './proxy/accept/limited-log.ts';
import { proxyFamilies } from './proxy/metrics/families.ts';

const VERSION = ownVersion();
const MAINTAIN_MS = 60_000;
/** Descriptors that one worker may hold through FFI. */
const DESCRIPTORS_MAX = 16_384;

const config = loadAgentConfig(process.env);
const log = createLog('agent', config.logLevel).child({ node: config.nodeName });
const clock = systemClock;
const random = Math.random;
const common = { clock, random, log };

mkdirSync(config.runDir, { recursive: true, mode: 0o700 });
mkdirSync(config.stateDir, { recursive: true, mode: 0o700 });
const lists = createDiskLists({ runDir: config.runDir, stateDir: config.stateDir, log });

const certificates = createCertificates({
  ...common,
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

const channel = createMeshChannel({
  serverIdentity: config.destinationName,
  material: () => ({ anchorsPem: certificates.anchorsPem(), certificate: certificates.get(ownIdentity) }),
  onConnectFailure: (error) => log.warn({ error: errorMessage(error) }, 'destination cannot be reached'),
});
const destination = connectDestination(config.destinationAddress, channel);

const redirection = createRedirection({
  bpffs: config.bpffs,
  objectsDir: config.bpfObjects,
  podsCgroup: config.podsCgroup,
  nodeCgroup: config.nodeCgroup,
  slots: config.slots,
  loader: createLibbpfLoader(),
  log,
});
const metrics = new MetricRegistry(proxyFamilies);

const discovery = createDiscovery({
  ...common,
  // A pod that scans addresses must not flood it.
  log: limitLog(log, clock),
  client: destination.destination,
  nodeName: config.nodeName,
  localPods: (ip) => enrolment.podOfAddress(ip),
});
const workers = createProxyWorkers({
  clock,
  log,
  count: config.workers,
  spawn: (workerData) =>
    new Worker(new URL('./proxy/worker.ts', import.meta.url), {
      workerData,
      name: `proxy-${workerData.workerIndex}`,
      // Descriptors that koffi opens are closed by koffi and by the sweep, never by Node.js.
      trackUnmanagedFds: false,
      resourceLimits: { maxYoungGenerationSizeMb: 12 },
    }),
  start: {
    logLevel: config.logLevel,
    sameNode: config.sameNode,
    kernel: redirection.kernel,
    controlPlaneNamespace: config.identityNamespace,
    failfastMs: config.failfastMs,
  },
  anchorsPem: certificates.anchorsPem(),
  duplicate: (fd) => checked('dup', dup(fd), 'handing a listener to a worker'),
  inodeOf: (fd) => {
    try {
      return fstatSync(fd).ino;
    } catch (error) {
      if (errnoName(error) === 'EBADF') return undefined;
      throw error;
    }
  },
  closeDuplicate: (fd) => void close(fd),
  descriptors: {
    make: () => DescriptorTable.create(DESCRIPTORS_MAX).shared,
    sweep: (table) => {
      for (const fd of new DescriptorTable(table).sweep()) close(fd);
    },
  },
  discover: (key, target, deliver) => discovery.subscribe(key, target, deliver),
  metricDefined: (worker, definition) => metrics.define(worker, definition as MetricDefinition),
  podMetrics: async (uid) => metrics.render(uid),
});
certificates.onChange((certificate) => workers.setCertificate(certificate));
certificates.onAnchors((pem) => workers.setAnchors(pem));

const enrolment = createEnrolment({
  ...common,
  redirection,
  workers,
  certificates,
  openNamespace: openPodNamespace,
  reporter: {
    report: (...report) => {
      nodeStream.report(...report);
      lists.setEnrolledPods(enrolment.pods.filter(({ phase }) => phase === 'enrolled').map(({ uid }) => uid));
      discovery.localPodsChanged();
      if (!sweptOnce) setImmediate(sweep);
    },
  },
  sandboxesChanged: (sandboxes) => lists.setSandboxes(sandboxes),
  podForgotten: () => undefined,
  leaveGraceMs: config.leaveGraceMs,
  leaveLimitMs: config.leaveLimitMs,
});
nodeMetrics(metrics, {
  nodeName: config.nodeName,
  startedAtSeconds: clock.wallMs() / 1000,
  redirection,
  enrolment,
  workers,
});

const sandboxes = lists.readSandboxes();
let snapshotSeen = false;
/** A pod that left the mesh while no agent was there is closed until its redirection is ended. */
let sweptOnce = false;
const sweep = (): void => {
  if (!snapshotSeen || !enrolment.settled || stopping) return;
  sweptOnce = true;
  // Without the list of an earlier agent, a living pod that nobody claims is not known to have opted out.
  const swept = redirection.sweep(sandboxes === undefined ? 'dead' : 'all');
  if (swept > 0) log.info({ pods: swept }, 'ended the redirection of pods that are gone');
};
let stopping = false;
const nodeStream = createNodeStream({
  ...common,
  client: destination.node,
  nodeName: config.nodeName,
  cluster: config.cluster,
  version: VERSION,
  features: [],
  token: async () => {
    await certificates.ready(ownIdentity);
    return readFileSync(config.destinationTokenFile, 'utf8');
  },
  handlers: {
    onWorkload: (workload) => enrolment.setWorkload(workload),
    onRemoved: (uid) => enrolment.removeWorkload(uid),
    onWithdrawn: (uid) => enrolment.withdrawn(uid),
    onSnapshotEnd: () => {
      if (snapshotSeen) return;
      snapshotSeen = true;
      log.info({ pods: enrolment.pods.length }, 'destination has told all workloads of the node');
      setImmediate(sweep);
    },
    onNamespaces: (names) => {
      enrolment.setNamespaces(names);
      lists.setNamespaces(names);
    },
    onState: () => undefined,
  },
});
enrolment.restore((sandboxes ?? []).filter(({ netnsPath }) => existsSync(netnsPath)));

await workers.ready;
const cni = await serveCni(join(config.runDir, 'cni.sock'), enrolment, log, {
  tombstones: join(config.runDir, 'tombstones'),
});
const admin = await createAdmin({
  host: config.nodeIps[0] ?? '127.0.0.1',
  port: config.metricsPort,
  socketPath: join(config.runDir, 'agent.sock'),
  peerUid,
  metrics: async () => metrics.render(),
  notReady: () => {
    if (certificates.get(ownIdentity) === undefined) return `no certificate of ${ownIdentity} so far`;
    return snapshotSeen ? undefined : 'destination has not told the workloads of this node so far';
  },
  state: () => ({
    version: VERSION,
    instance: nodeStream.instanceId,
    connected: nodeStream.connected,
    pods: enrolment.pods,
    workersReplaced: workers.replaced,
    discovery: discovery.streams,
    kernel: Object.fromEntries(redirection.counters()),
  }),
  log,
});
const maintenance = setInterval(() => {
  redirection.maintain();
  sweep();
}, MAINTAIN_MS);
log.info({ version: VERSION, workers: config.workers }, 'the agent serves');
// With NODE_COMPILE_CACHE: a start that finds everything there needs no TypeScript compiler, 25 MB a thread.
flushCompileCache();

const stop = async (signal: string): Promise<void> => {
  if (stopping) return;
  stopping = true;
  log.info({ signal, graceMs: config.drainGraceMs }, 'the agent drains; pods stay redirected');
  clearInterval(maintenance);
  // The CNI socket stays to the end too: pods start meanwhile, and a successor puts its own in its place.
  await workers.drain(config.drainGraceMs);
  await cni.close();
  nodeStream.close();
  discovery.close();
  destination.close();
  await workers.close();
  enrolment.close();
  certificates.close();
  redirection.close();
  lists.flush();
  await admin.close();
};
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    stop(signal).then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ error: errorMessage(error) }, 'the agent did not stop in order');
        process.exit(1);
      },
    );
  });
}
