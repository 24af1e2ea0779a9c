// SPDX-License-Identifier: Apache-2.0
// Certificates that live for half a minute, and issuer and trust anchor exchanged under load: no request fails and
// no stream breaks.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeAuthority } from '#lib/x509-authority/make-authority.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod, serviceAccount } from '../e2e/objects.ts';
import { assertOnly, echoServer, startLoad } from './load.ts';
import { scale } from './scale.ts';
import { until } from './until.ts';

const { lifetimeMs, loadMs } = scale.certificates;
const HOUR_MS = 3_600_000;
const AGENTS = ['node1', 'node2'];

let mesh: LocalMesh;
before(async () => {
  mesh = await startMesh({
    name: 'fa-certs',
    identityEnv: { NODEMESH_LEAF_LIFETIME: `${lifetimeMs / 1000}s`, NODEMESH_CLOCK_SKEW: '1s' },
    objects: [
      namespace('mesh', meshed),
      ...['echo', 'client'].map((name) => serviceAccount('mesh', name)),
      ...echoServer('mesh', 'echo', { node: 'node1', account: 'echo' }),
      pod('mesh', 'client', [], { node: 'node2', account: 'client' }),
    ],
  });
  await mesh.waitReady();
});
after(async () => mesh.down());

const said = (file: string, words: string): number => readFileSync(file, 'utf8').split(words).length - 1;
const agentLog = (node: string): string => join(mesh.node(node).layout.logDir, 'agent.log');
const identityLog = (): string => join(mesh.layout.logDir, 'identity.log');
const ISSUER = 'issuer or trust anchors changed';
const anchorsTaken = (times: number): Promise<true> =>
  until(`trust anchors changed ${times} times in every log`, 30_000, () =>
    AGENTS.every((node) => said(agentLog(node), '"trust anchors changed"') >= times) &&
    said(join(mesh.layout.logDir, 'destination.log'), '"trust anchors changed"') >= times
      ? true
      : undefined,
  );
/** Does it, and waits until identity has seen that and nothing else. */
async function issuerTakes(what: string, change: () => void): Promise<void> {
  const before = said(identityLog(), ISSUER);
  change();
  await until(what, 30_000, () => (said(identityLog(), ISSUER) > before ? true : undefined));
}

it('issuer and anchor are exchanged under load: 0 failed requests', async () => {
  const file = (name: string): string => join(mesh.layout.keysDir, name);
  const next = await makeAuthority({
    trustDomain: 'cluster.local',
    notBeforeMs: Date.now() - 60_000,
    anchorLifetimeMs: HOUR_MS,
    issuerLifetimeMs: HOUR_MS,
  });
  const receivedBefore = said(agentLog('node1'), '"certificate received"');
  const load = await startLoad(mesh, {
    from: { ns: 'mesh', pod: 'client' },
    to: 'echo',
    rate: 60,
    streams: 4,
  });
  const endMs = Date.now() + loadMs;

  await issuerTakes('identity knows both anchors', () =>
    writeFileSync(file('ca.crt'), readFileSync(file('ca.crt'), 'utf8') + next.anchorPem),
  );
  await anchorsTaken(1);
  load.mark('both anchors are trusted');
  await issuerTakes('identity issues with the new issuer', () => {
    writeFileSync(file('issuer.key'), next.issuerKeyPem);
    writeFileSync(file('issuer.crt'), next.issuerPem);
  });
  load.mark('the new issuer signs');
  // Until the last certificate of the old issuer has ended.
  await sleep(lifetimeMs + 2000);
  writeFileSync(file('ca.crt'), next.anchorPem);
  await anchorsTaken(2);
  load.mark('only the new anchor is trusted');
  await sleep(Math.max(5000, endMs - Date.now()));

  const report = await load.stop();
  assertOnly(report, { minRate: 50, gapMaxMs: 2000 });
  const renewals = said(agentLog('node1'), '"certificate received"') - receivedBefore;
  assert.ok(renewals >= 2 * Math.floor(loadMs / lifetimeMs), `${renewals} certificates were renewed`);
});
