// SPDX-License-Identifier: Apache-2.0
// On a running mesh with traffic, what steers it is broken by hand: the next self-check mends it, says so in metrics
// and state, and traffic is meshed again.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, unlinkSync } from 'node:fs';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { createLibbpfLoader } from '#lib/bpf/libbpf-loader.ts';
import { LAYOUT } from '#lib/bpf/abi.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { netnsPath, podNetns } from '../../local/layout.ts';
import { until } from '../faults/until.ts';
import { enrolmentStatus, untilReason } from './enrolment-status.ts';
import { meshed, namespace, pod } from './objects.ts';
import { scrape, total } from './scrape.ts';

interface Outcome {
  readonly result: string;
  readonly repairs: number;
  readonly problems: readonly string[];
}
interface State {
  readonly node: Outcome;
  readonly pods: Readonly<Record<string, Outcome>>;
  readonly longestPieceMs: number;
}

const INTERVAL_MS = 2_000;
const MESH = join(import.meta.dirname, '..', '..', 'bin', 'mesh');

describe('self-check of a mesh with traffic', () => {
  let mesh: LocalMesh;
  let server = '';
  const loader = createLibbpfLoader();
  before(async () => {
    mesh = await startMesh({
      name: 'sc-e2e',
      agentEnv: { NODEMESH_SELF_CHECK_INTERVAL: `${INTERVAL_MS}ms` },
      objects: [
        namespace('mesh', meshed),
        pod('mesh', 'server', [], { node: 'node1' }),
        pod('mesh', 'client', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
    server = (await mesh.pod('server', 'mesh')).status?.podIP ?? '';
  });
  after(async () => mesh.down());

  const pins = (node: string): string => join(mesh.node(node).layout.bpffs, 'nodemesh', String(LAYOUT));

  async function ask(method: 'GET' | 'POST', path: string): Promise<unknown> {
    const socketPath = join(mesh.node('node1').layout.runDir, 'agent.sock');
    const sent = request({ socketPath, path, method, agent: false });
    sent.end();
    const [response] = (await once(sent, 'response')) as [IncomingMessage];
    let text = '';
    for await (const chunk of response) text += String(chunk);
    assert.equal(response.statusCode, 200, text);
    return JSON.parse(text) as unknown;
  }
  const run = async (): Promise<State> => (await ask('POST', '/self-check')) as State;
  const repairs = async (check: string): Promise<number> =>
    total(await scrape(mesh, 'node1'), 'nodemesh_self_check_repairs_total', { check });

  /** The pod's own admin port answers only through the agent. */
  const reached = async (): Promise<boolean> => {
    const { code } = await mesh.exec(
      'client',
      ['curl', '-sf', '--max-time', '5', `http://${server}:4191/live`],
      { ns: 'mesh' },
    );
    return code === 0;
  };
  const podPins = (): string[] =>
    readdirSync(join(pins('node1'), 'pods')).map((cookie) => join(pins('node1'), 'pods', cookie));
  async function mended(check: string, before: number): Promise<void> {
    await until(`${check} is mended`, 30_000, async () => (await repairs(check)) > before);
    // A check that came while this test was still at work has mended a part only.
    await until('the pod is reached', 30_000, reached);
  }

  it('finds nothing in a healthy mesh', async () => {
    assert.ok(await reached());
    const state = await run();
    assert.equal(state.node.result, 'ok', JSON.stringify(state));
    assert.ok(Object.keys(state.pods).length >= 1);
    for (const outcome of Object.values(state.pods))
      assert.equal(outcome.result, 'ok', JSON.stringify(state));
  });

  it('attaches the detached program of a pod again within the interval', async () => {
    const before = await repairs('pod-link');
    for (const path of podPins()) {
      const link = loader.openLink(join(path, 'link'));
      link?.detach();
      link?.close();
    }
    await mended('pod-link', before);
  });

  it('writes the records of pods again', async () => {
    const before = await repairs('pod-record');
    const map = loader.openMap(join(pins('node1'), 'maps/nm_pods'));
    assert.ok(map);
    for (const key of map.keys()) map.delete(key);
    map.close();
    await mended('pod-record', before);
  });

  it("hangs the node's programs back and pins them", async () => {
    const before = await repairs('node-links');
    for (const name of readdirSync(join(pins('node1'), 'links'))) {
      const link = loader.openLink(join(pins('node1'), 'links', name));
      link?.detach();
      link?.close();
    }
    await mended('node-links', before);
    const pinsBefore = await repairs('node-pins');
    unlinkSync(join(pins('node1'), 'maps/nm_listen'));
    await mended('node-pins', pinsBefore);
    await until('the map is pinned', 30_000, () => existsSync(join(pins('node1'), 'maps/nm_listen')));
    const hung = ['cgroup', 'show', mesh.node('node1').layout.podsCgroup];
    await until('the program hangs there', 30_000, () =>
      execFileSync('bpftool', hung).toString().includes('nm_connect4'),
    );
  });

  it('shows all of it in the state, and takes no long pieces of the control thread', async () => {
    const states = [await run()];
    // The machine may take the processor away in one piece, not in one of every run.
    while (states.length < 8) states.push(await run());
    const state = states.at(-1) ?? assert.fail();
    assert.equal(state.node.result, 'ok', JSON.stringify(state));
    assert.ok(state.node.repairs >= 2);
    assert.ok(Object.values(state.pods).some((outcome) => outcome.repairs >= 2));
    const longestMs = states.map(({ longestPieceMs }) => longestPieceMs);
    assert.ok(Math.min(...longestMs) < 100, `${longestMs.join(', ')} ms`);
    const shown = (await ask('GET', '/state')) as { readonly selfCheck: State };
    assert.ok(shown.selfCheck.node.repairs >= 2);
  });

  it('says what it cannot mend: on the pod, whatever else changes there, and in the status, until it is over', async () => {
    const status = (...args: string[]) =>
      spawnSync(MESH, ['local', 'status', '--name', mesh.name, ...args], {
        encoding: 'utf8',
        timeout: 60_000,
      });
    const sound = status();
    assert.equal(sound.status, 0, sound.stdout + sound.stderr);
    assert.match(sound.stdout, /^self-check of node1: (ok|repaired) at 2\d{3}-.*, \d+ repairs so far$/m);

    // Another namespace stands where the pod's was.
    const path = netnsPath(podNetns(mesh.name, 'mesh', 'server'));
    execFileSync('mount', ['--bind', '/proc/self/ns/net', path]);
    try {
      await untilReason(mesh, 'mesh', ['server'], 'SelfCheck');
      await mesh.annotate('Pod', 'mesh', 'server', 'config.linkerd.io/skip-inbound-ports=9999');
      await run();
      const { condition } = await enrolmentStatus(mesh, 'server', 'mesh');
      assert.equal(condition?.reason, 'SelfCheck');
      assert.match(condition.message, /leads to another network namespace/);
      const broken = status();
      assert.equal(broken.status, 1, broken.stdout);
      assert.match(broken.stdout, /^self-check of node1: failed/m);
      assert.match(broken.stdout, /^ {2}mesh\/server: pod-namespace: /m);
      const told = status('-o', 'json');
      assert.equal(told.status, 1);
      const { selfChecks } = JSON.parse(told.stdout) as { selfChecks: { node: string; result: string }[] };
      assert.deepEqual(
        selfChecks.map(({ node, result }) => `${node} ${result}`),
        ['node1 failed', 'node2 ok'],
      );
    } finally {
      execFileSync('umount', [path]);
    }
    await untilReason(mesh, 'mesh', ['server'], 'Enrolled');
    assert.equal(status().status, 0);
  });

  it('knows the paths of namespaces after the agent was started again', async () => {
    const path = netnsPath(podNetns(mesh.name, 'mesh', 'server'));
    await mesh.node('node1').restartAgent();
    execFileSync('mount', ['--bind', '/proc/self/ns/net', path]);
    try {
      await untilReason(mesh, 'mesh', ['server'], 'SelfCheck');
    } finally {
      execFileSync('umount', [path]);
    }
    await untilReason(mesh, 'mesh', ['server'], 'Enrolled');
  });
});
