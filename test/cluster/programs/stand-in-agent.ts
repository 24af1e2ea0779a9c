// SPDX-License-Identifier: Apache-2.0
// An agent as far as the control plane sees one: the agent's own code for certificates, node stream and discovery,
// in a node's network namespace, with the tokens of a real pod. It reports every pod as enrolled as soon as it has
// its certificate, dials its likes with that certificate, and writes what happens on its standard output, a JSON
// document a line. It steers nothing.

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { systemClock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { type Log, silentLog } from '#lib/core/log.ts';
import { createMeshChannel } from '#lib/grpc/client.ts';
import { createMeshContext } from '#lib/tls/mesh-context.ts';
import { secureMesh } from '#lib/tls/mesh-client.ts';
import { listenMesh, type MeshServer } from '#lib/tls/mesh-server.ts';
import { pemBlocks } from '#lib/x509/verify.ts';
import { createCertificates } from '../../../agent/node/certificates.ts';
import { connectDestination } from '../../../agent/node/destination-client.ts';
import { createDiscovery } from '../../../agent/node/discovery.ts';
import { createNodeStream } from '../../../agent/node/node-stream.ts';
import type { Destination } from '../../../agent/proxy/model.ts';
import type { StandInConfig, StandInLine } from '../stand-in.ts';

const BEAT_MS = 500;
const DIAL_MS = 250;
const HANDSHAKE_MS = 15_000;
const DIALS_AT_ONCE_MAX = 8;

const config = JSON.parse(process.argv[2] ?? '{}') as StandInConfig;
const common = { clock: systemClock, random: Math.random };
const say = (line: StandInLine): void => void process.stdout.write(`${JSON.stringify(line)}\n`);
const log: Log = {
  ...silentLog,
  warn: (fields, message) =>
    say({ what: 'warning', message, reason: JSON.stringify(fields['reason'] ?? '') }),
};

const certificates = createCertificates({
  ...common,
  log,
  identityAddress: config.identityAddress,
  identityName: config.identityName,
  tokenFile: config.identityTokenFile,
  anchorsFile: config.anchorsFile,
});
certificates.want(config.ownIdentity);
const channel = createMeshChannel({
  serverIdentity: config.destinationName,
  material: () => ({
    anchorsPem: certificates.anchorsPem(),
    certificate: certificates.get(config.ownIdentity),
  }),
  reconnectMaxMs: 2000,
});
const destination = connectDestination({ address: config.destinationAddress, channel });

function issuerOf(chainPem: string): string {
  const [, issuer = ''] = pemBlocks(chainPem);
  return new X509Certificate(issuer).fingerprint256;
}

const counts = { certificates: 0, dials: 0, echoes: 0, connects: 0 };
const held = new Set<string>();
certificates.onChange(({ identity }) => {
  counts.certificates++;
  held.add(identity);
});

const stream = createNodeStream({
  ...common,
  log,
  client: destination.node,
  nodeName: config.node,
  cluster: 'local',
  version: 'test',
  features: ['http2'],
  token: async () => {
    await certificates.ready(config.ownIdentity);
    return readFileSync(config.streamTokenFile, 'utf8');
  },
  handlers: {
    onWorkload({ pod, enrol }) {
      if (!enrol) return;
      certificates.want(pod.identity);
      certificates.ready(pod.identity).then(
        () => {
          stream.report(pod.uid, 'enrolled', pod.generation, 'Enrolled', '');
          say({ what: 'enrolled', uid: pod.uid, pod: `${pod.namespace}/${pod.name}` });
        },
        (error: unknown) => say({ what: 'failure', reason: `${pod.name}: ${errorMessage(error)}` }),
      );
    },
    onRemoved: () => undefined,
    onWithdrawn: () => undefined,
    onSnapshotEnd: () => undefined,
    onNamespaces: () => undefined,
    onState({ state }) {
      if (state === 'connected') counts.connects++;
      say({ what: 'stream', state });
    },
  },
});
stream.setReporting(true);

const discovery = createDiscovery({
  ...common,
  log,
  client: destination.destination,
  policies: destination.policies,
  nodeName: config.node,
  localPods: () => undefined,
});
const endpointsOf = (found: Destination): string[] | undefined => {
  if (found.kind === 'unknown') return undefined;
  const endpoints = found.kind === 'endpoint' ? [found.endpoint] : found.endpoints;
  return endpoints.map(({ ip, identity }) => `${ip} ${identity ?? ''}`).sort();
};
for (const target of config.targets) {
  discovery.subscribe(target.name, target, (found) => {
    if (found.kind === 'service' && !found.resolved) return;
    const endpoints = endpointsOf(found);
    say({ what: 'destination', name: target.name, ...(endpoints === undefined ? {} : { endpoints }) });
  });
}

// A pair of identities of the pods, between nodes: new connections all the time, and one for good.
let server: MeshServer | undefined;
async function serve(): Promise<void> {
  certificates.want(config.serverIdentity);
  certificates.want(config.clientIdentity);
  let certificate = await certificates.ready(config.serverIdentity);
  server = await listenMesh({
    host: config.ip,
    port: config.meshPort,
    certificate,
    anchorsPem: certificates.anchorsPem(),
    clientCertificate: 'required',
    connectionsMax: 1000,
    handshakeTimeoutMs: HANDSHAKE_MS,
    log,
    onConnection(socket, identity) {
      if (identity !== config.clientIdentity) socket.destroy();
      else socket.pipe(socket);
    },
  });
  const update = (): void => server?.setMaterial({ certificate, anchorsPem: certificates.anchorsPem() });
  certificates.onChange((changed) => {
    if (changed.identity !== config.serverIdentity) return;
    certificate = changed;
    update();
  });
  certificates.onAnchors(update);
}

async function dial(ip: string): Promise<TLSSocket> {
  const certificate = await certificates.ready(config.clientIdentity);
  const socket = connect({ host: ip, port: config.meshPort });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  return await secureMesh(socket, {
    context: createMeshContext({ certificate, anchorsPem: certificates.anchorsPem() }),
    serverIdentity: config.serverIdentity,
    handshakeTimeoutMs: HANDSHAKE_MS,
  });
}

const echoed = (socket: TLSSocket): Promise<void> =>
  new Promise((resolve, reject) => {
    socket.once('data', () => resolve());
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the connection was closed')));
    socket.write('x');
  });

const fail = (kind: string) => (error: unknown) =>
  say({ what: 'failure', reason: `${kind}: ${errorMessage(error)}` });

function keepTalking(ip: string): void {
  const talk = async (): Promise<void> => {
    const socket = await dial(ip);
    socket.setMaxListeners(0);
    for (;;) {
      await echoed(socket);
      counts.echoes++;
      await new Promise((resolve) => setTimeout(resolve, DIAL_MS));
    }
  };
  talk().catch(fail(`the long connection to ${ip}`));
  let running = 0;
  setInterval(() => {
    if (running >= DIALS_AT_ONCE_MAX) return;
    running++;
    dial(ip)
      .then(async (socket) => {
        await echoed(socket);
        counts.dials++;
        socket.destroy();
      })
      .catch(fail(`a connection to ${ip}`))
      .finally(() => running--);
  }, DIAL_MS);
}

serve().then(
  () => say({ what: 'serving' }),
  (error: unknown) => say({ what: 'failure', reason: `cannot serve: ${errorMessage(error)}` }),
);
// The others serve by then.
process.stdin.once('data', () => config.peers.forEach(keepTalking));
// Whoever started it has ended.
process.stdin.once('end', () => process.exit(0));

setInterval(() => {
  for (const identity of held) {
    if (certificates.get(identity) !== undefined) continue;
    held.delete(identity);
    say({ what: 'failure', reason: `the certificate of ${identity} ended before the next one came` });
  }
  const issuers = certificates.held().map(({ chainPem }) => issuerOf(chainPem));
  say({ what: 'beat', connected: stream.connected, ...counts, issuers: [...new Set(issuers)] });
}, BEAT_MS);
