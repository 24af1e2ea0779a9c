// SPDX-License-Identifier: Apache-2.0
// A thousand connections of mixed protocols, and under them everything that is done to a node: workers that throw,
// fill their heap and spin, kill -9 of agent and keeper, an upgrade, opting out and in, new trust anchors and issuer,
// slow hellos, foreign certificates, ways past the mesh. Each protocol loses what it must, and nothing else.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { identityOf } from '#lib/x509/names.ts';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { podNetns } from '../../local/layout.ts';
import { untilReason } from '../e2e/enrolment-status.ts';
import { certificateMaker } from '../e2e/hostile-certificates.ts';
import { attemptFrom, base64 } from '../e2e/hostile-helpers.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { scrape, total } from '../e2e/scrape.ts';
import { keeperConnected, patientAgents } from './agent-faults.ts';
import {
  death,
  handOver,
  leaving,
  mixedComplaints,
  type MixedLoad,
  mixedServer,
  mixedSummary,
  opening,
  startMixedLoad,
  untilAllServed,
  type Window,
} from './mixed.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const PRELOAD = fileURLToPath(new URL('programs/worker-fault.ts', import.meta.url));
const SLOW_HELLOS = fileURLToPath(new URL('../attacks/slow-hello.py', import.meta.url));
const WORKERS = 2;
/** Some change their connection at any moment: a thousand are open at least. */
const CONNECTIONS = 1_040;
const HOUR_MS = 3_600_000;
const DRAIN_MS = 7_000;
/** From the end of a connection until it is seen, on a machine that is busy. */
const SLACK_MS = 3_000;
const SETTLED_MS = 60_000;
const MESH_PORT = 4143;
const HTTP_PORT = 8080;

describe('a thousand connections of mixed protocols', () => {
  let mesh: LocalMesh;
  let folder = '';
  let loads: readonly MixedLoad[] = [];
  let startMs = 0;
  const windows: Window[] = [];

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-faults-'));
    mesh = await startMesh({
      name: 'f-mixed',
      agentEnv: {
        ...patientAgents,
        NODE_OPTIONS: `--import ${PRELOAD}`,
        NODEMESH_TEST_FAULTS: folder,
        NODEMESH_WORKERS: String(WORKERS),
        NODEMESH_SHUTDOWN_GRACE: `${DRAIN_MS / 1000}s`,
        NODEMESH_LEAVE_GRACE: '1s',
        NODEMESH_LEAVE_LIMIT: '10m',
      },
      objects: [
        namespace('mesh', meshed),
        namespace('moving', meshed),
        namespace('plain'),
        ...mixedServer('mesh', 'server', { node: 'node1' }),
        ...mixedServer('mesh', 'strict', {
          node: 'node1',
          annotations: { 'config.linkerd.io/default-inbound-policy': 'all-authenticated' },
        }),
        pod('mesh', 'near', [], { node: 'node1' }),
        pod('mesh', 'far', [], { node: 'node2' }),
        pod('moving', 'mover', [], { node: 'node2' }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    startMs = Date.now();
    const clients = [
      { from: { ns: 'mesh', pod: 'near' }, to: 'server', connections: 0.4 * CONNECTIONS },
      { from: { ns: 'mesh', pod: 'far' }, to: 'server', connections: 0.4 * CONNECTIONS },
      { from: { ns: 'moving', pod: 'mover' }, to: 'server.mesh', connections: 0.2 * CONNECTIONS },
    ];
    loads = clients.map((client) =>
      startMixedLoad(mesh, { ...client, periodMs: 5_000, rampMs: 10_000, timeoutMs: 60_000 }),
    );
    await untilAllServed(loads, 120_000);
    windows.push(opening(startMs, Date.now()));
  });
  after(async () => {
    await mesh?.down();
    if (folder !== '') rmSync(folder, { recursive: true });
  });

  /** Something dies, of which `gone` tells; then all are served again. */
  async function lose(name: string, act: () => Promise<void>, gone: () => Promise<unknown>): Promise<void> {
    const fromMs = Date.now();
    await act();
    await gone();
    const goneMs = Date.now();
    await untilAllServed(loads, SETTLED_MS);
    windows.push(death(name, fromMs, goneMs, Date.now()));
  }

  const replaced = async (): Promise<number> =>
    total(await scrape(mesh, 'node1'), 'nodemesh_worker_replaced_total', { reason: 'exited' });

  it('are held at once, over mutual TLS where they come from another node', async () => {
    const statuses = await Promise.all(loads.map((load) => load.status()));
    const held = statuses.reduce((sum, { open }) => sum + open, 0);
    assert.ok(held >= 1_000, `${held} connections`);
    const labels = { direction: 'inbound', peer: 'src', pod: 'server', tls: 'true' };
    const open = total(await scrape(mesh, 'node1'), 'tcp_open_connections', labels);
    assert.ok(open >= 0.3 * CONNECTIONS, `${open} connections of other nodes`);
  });

  for (const fault of scale.mixed.workerFaults) {
    it(`a worker does this: ${fault}`, async () => {
      const before = await replaced();
      await lose(
        `worker ${fault}`,
        async () => writeFileSync(join(folder, `node1-${fault}-0`), ''),
        async () => until('it is replaced', 60_000, async () => (await replaced()) > before),
      );
    });
  }

  it('kill -9 of the agent', async () => {
    const pid = await mesh.node('node1').agentPid();
    await lose(
      'kill -9 of the agent',
      async () => void process.kill(pid, 'SIGKILL'),
      async () => until('it is gone', 10_000, () => !existsSync(`/proc/${pid}`)),
    );
    await keeperConnected(mesh);
  });

  it('kill -9 of the keeper: nothing is lost', async () => {
    const node = mesh.node('node1');
    const pid = await node.keeperPid();
    await node.killKeeper();
    await until('another keeper', 20_000, async () => (await node.keeperPid()) !== pid);
    await keeperConnected(mesh);
  });

  it('an upgrade: only what has no end of its own is cut, and only when the drain is over', async () => {
    const node = mesh.node('node1');
    const fromMs = Date.now();
    await node.upgradeAgent();
    const log = readFileSync(join(node.layout.logDir, 'agent.log'), 'utf8').split('\n');
    const told = log.findLast((line) => line.includes('another agent of this node serves now'));
    assert.ok(told !== undefined, 'the old agent was told');
    const cutMs = Date.parse((JSON.parse(told) as { time: string }).time) + DRAIN_MS - SLACK_MS;
    await untilAllServed(loads, SETTLED_MS);
    windows.push(handOver('upgrade', ['near'], fromMs, cutMs, Date.now()));
  });

  it('opting out and in again with connections that stay: nothing is lost', async () => {
    const opt = async (value: string): Promise<void> =>
      mesh.annotate('Namespace', '', 'moving', `linkerd.io/inject=${value}`);
    const fromMs = Date.now();
    await opt('disabled');
    await untilReason(mesh, 'moving', ['mover'], 'Leaving');
    // Longer than the grace time.
    await sleep(1_500);
    await opt('enabled');
    await untilReason(mesh, 'moving', ['mover'], 'Enrolled');
    windows.push(leaving('opting out and in', ['mover'], fromMs, Date.now()));
  });

  it('new trust anchors and a new issuer: nothing is lost', async () => {
    const file = (name: string): string => join(mesh.layout.keysDir, name);
    const said = (path: string, words: string): number => readFileSync(path, 'utf8').split(words).length - 1;
    const agentLogs = ['node1', 'node2'].map((node) => join(mesh.node(node).layout.logDir, 'agent.log'));
    const identityLog = join(mesh.layout.logDir, 'identity.log');
    const next = await makeAuthority({
      trustDomain: 'cluster.local',
      notBeforeMs: Date.now() - 60_000,
      anchorLifetimeMs: HOUR_MS,
      issuerLifetimeMs: HOUR_MS,
    });
    const counts = agentLogs.map((path) => said(path, '"trust anchors changed"'));
    writeFileSync(file('ca.crt'), readFileSync(file('ca.crt'), 'utf8') + next.anchorPem);
    await until('every agent trusts both', 30_000, () =>
      agentLogs.every((path, index) => said(path, '"trust anchors changed"') > (counts[index] ?? 0)),
    );
    const issued = said(identityLog, 'issuer or trust anchors changed');
    writeFileSync(file('issuer.key'), next.issuerKeyPem);
    writeFileSync(file('issuer.crt'), next.issuerPem);
    await until(
      'the new issuer signs',
      30_000,
      () => said(identityLog, 'issuer or trust anchors changed') > issued,
    );
    // A pod that is new gets a certificate of it, and is believed by the others.
    await mesh.apply(namespace('later', meshed));
    await mesh.apply(pod('later', 'guest', [], { node: 'node2' }));
    await mesh.waitReady();
    const { podIP = '' } = (await mesh.pod('strict', 'mesh')).status ?? {};
    const ask = [
      'curl',
      '-s',
      '-f',
      '--max-time',
      '20',
      '-H',
      'x-nonce: hello',
      `http://${podIP}:${HTTP_PORT}/`,
    ];
    assert.equal((await mesh.exec('guest', ask, { ns: 'later' })).stdout, 'hello');
  });

  it('slow hellos, a foreign certificate, ways past the mesh: nothing is lost', async () => {
    const { podIP: server = '' } = (await mesh.pod('server', 'mesh')).status ?? {};
    const { podIP: strict = '' } = (await mesh.pod('strict', 'mesh')).status ?? {};
    const slow = String(scale.mixed.slowHellos);
    const argv = ['netns', 'exec', podNetns(mesh.name, 'plain', 'outsider'), 'python3', SLOW_HELLOS];
    const attack = spawn('ip', [...argv, server, String(MESH_PORT), slow], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      let told = '';
      attack.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
      await until('all of them are there', 60_000, () => {
        const { open, cut } = JSON.parse(told.trim().split('\n').at(-1) || '{"open":0,"cut":0}') as {
          open: number;
          cut: number;
        };
        return open + cut >= scale.mixed.slowHellos;
      });
      const make = await certificateMaker(mesh.layout.keysDir);
      const domain = { identityNamespace: 'linkerd', trustDomain: 'cluster.local' };
      const name = (account: string): string => identityOf({ name: account, namespace: 'mesh' }, domain);
      const request = base64(`GET / HTTP/1.1\r\nhost: strict\r\nx-nonce: hello\r\nconnection: close\r\n\r\n`);
      const tls = { serverName: name('default'), alpn: 'transport.l5d.io/v1' };
      const outcomes = await attemptFrom(
        (command, options) => mesh.exec('outsider', command, { ns: 'plain', ...options }),
        [
          {
            to: { host: strict, port: MESH_PORT },
            tls: { ...tls, ...(await make.foreign(name('default'))) },
            send: [request],
          },
          { to: { host: strict, port: MESH_PORT }, tls, send: [request] },
          { to: { host: strict, port: MESH_PORT }, send: [request] },
          { to: { host: strict, port: HTTP_PORT }, send: [request] },
        ],
      );
      const answers = outcomes.map(({ received }) => Buffer.from(received, 'base64').toString('latin1'));
      assert.ok(
        answers.every((answer) => !answer.includes('hello')),
        answers.join('\n'),
      );
      assert.match(answers[3] ?? '', /^HTTP\/1\.1 403 /);
      await untilAllServed(loads, SETTLED_MS);
    } finally {
      attack.kill('SIGKILL');
    }
  });

  it('each protocol lost what it had to, and nothing else', async (t) => {
    const reports = await Promise.all(loads.map((load) => load.stop()));
    t.diagnostic(mixedSummary(reports, windows));
    const found = mixedComplaints(reports, windows, startMs);
    const times = windows.map(
      ({ name, fromMs, toMs }) => `${name}: +${(fromMs - startMs) / 1000} to +${(toMs - startMs) / 1000} s`,
    );
    assert.ok(found.length === 0, [...times, ...found].join('\n'));
    assert.ok(reports.reduce((sum, { openMax }) => sum + openMax, 0) >= 1_000);
  });
});
