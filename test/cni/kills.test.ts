// SPDX-License-Identifier: Apache-2.0
// Two hundred calls of the shim at once, half of them killed at random moments, for pods of the mesh against the real
// agent: once the runtime has said DEL for every sandbox, as it does in the end, nothing of them is left.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom } from '#lib/core/clock.ts';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod } from '../e2e/objects.ts';
import { until } from '../faults/until.ts';

const NAME = 'cn-kills';
const PODS = 10;
/** Of each pod: as a runtime that makes its sandbox anew again and again, without waiting. */
const SANDBOXES = 20;
const PREFIX = 'cn-kills-';

interface Sandbox {
  readonly netns: string;
  readonly containerId: string;
  readonly uid: string;
  readonly name: string;
  readonly address: string;
}

describe('the CNI shim, killed', () => {
  let mesh: LocalMesh;
  const sandboxes: Sandbox[] = [];
  const random = seededRandom(4);

  const ip = (batch: readonly string[]): void => {
    execFileSync('ip', ['-batch', '-'], { input: `${batch.join('\n')}\n` });
  };
  const removeNamespaces = (): void => {
    const names = execFileSync('ip', ['netns', 'list'], { encoding: 'utf8' })
      .split('\n')
      .map((line) => line.split(' ')[0] ?? '')
      .filter((name) => name.startsWith(PREFIX));
    if (names.length > 0) ip(names.map((name) => `netns del ${name}`));
  };

  before(async () => {
    removeNamespaces(); // of a killed run
    const names = Array.from({ length: PODS }, (_, index) => `pod-${index}`);
    mesh = await startMesh({
      name: NAME,
      nodes: 1,
      objects: [namespace('shop', meshed), ...names.map((name) => pod('shop', name, []))],
    });
    await mesh.waitReady();
    for (const [index, name] of names.entries()) {
      const { metadata } = await mesh.pod(name, 'shop');
      for (let round = 0; round < SANDBOXES; round++) {
        const containerId = `${index}-${round}`;
        const address = `10.99.${index}.${round + 1}`;
        sandboxes.push({ netns: `${PREFIX}${containerId}`, containerId, uid: metadata.uid, name, address });
      }
    }
    ip(sandboxes.map(({ netns }) => `netns add ${netns}`));
    for (const { netns, address } of sandboxes) {
      execFileSync('ip', ['-n', netns, '-batch', '-'], {
        input: `link set lo up\naddr add ${address}/32 dev lo\n`,
      });
    }
  });
  after(async () => {
    await mesh.down();
    removeNamespaces();
  });

  const layout = () => mesh.node('node1').layout;

  /** Undefined: it was killed. */
  async function call(
    command: 'ADD' | 'DEL',
    sandbox: Sandbox,
    killAfterMs?: number,
  ): Promise<string | undefined> {
    const { containerId, netns, uid, name, address } = sandbox;
    const child = spawn(
      'nsenter',
      [`--net=/run/netns/${layout().netns}`, join(layout().cniBinDir, 'nodemesh-cni')],
      {
        env: {
          CNI_COMMAND: command,
          CNI_CONTAINERID: containerId,
          CNI_NETNS: `/run/netns/${netns}`,
          CNI_IFNAME: 'eth0',
          CNI_PATH: layout().cniBinDir,
          CNI_ARGS: `K8S_POD_NAMESPACE=shop;K8S_POD_NAME=${name};K8S_POD_UID=${uid}`,
          PATH: process.env['PATH'],
        },
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    );
    let stdout = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    child.stdin.on('error', () => undefined); // killed before it had read
    child.stdin.end(
      JSON.stringify({
        cniVersion: '1.0.0',
        name: 'kills',
        type: 'nodemesh-cni',
        socket: join(layout().runDir, 'cni.sock'),
        enrolledList: join(layout().stateDir, 'enrolled'),
        tombstones: join(layout().runDir, 'tombstones'),
        prevResult: { cniVersion: '1.0.0', ips: [{ address: `${address}/24` }] },
      }),
    );
    if (killAfterMs !== undefined) void sleep(killAfterMs).then(() => child.kill('SIGKILL'));
    const [code] = (await once(child, 'close')) as [number | null];
    return code === null ? undefined : `${code} ${stdout}`;
  }

  async function level() {
    const pid = await mesh.node('node1').agentPid();
    const open = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      const path = `/proc/${pid}/fd/${fd}`;
      return existsSync(path) ? [path] : [];
    });
    const namespaces = new Set(sandboxes.map(({ netns }) => String(statSync(`/run/netns/${netns}`).ino)));
    const pins = execFileSync('find', [layout().bpffs, '-path', '*/pods/*'], { encoding: 'utf8' }).split(
      '\n',
    );
    const tombstones = join(layout().runDir, 'tombstones');
    const calls = execFileSync('ss', ['-Hxa', 'state', 'connected'], { encoding: 'utf8' }).split('\n');
    return {
      descriptors: open.length,
      held: open.filter((path) => {
        try {
          return namespaces.has(
            /^net:\[(\d+)\]$/.exec(readlinkSync(path))?.[1] ?? String(statSync(path).ino),
          );
        } catch {
          return false; // closed meanwhile
        }
      }).length,
      pins: pins.filter((path) => path !== '').length,
      tombstones: existsSync(tombstones) ? readdirSync(tombstones).length : 0,
      known: (JSON.parse(readFileSync(join(layout().runDir, 'sandboxes.json'), 'utf8')) as unknown[]).length,
      calls: calls.filter((line) => line.includes(join(layout().runDir, 'cni.sock'))).length,
    };
  }

  it(`${PODS * SANDBOXES} calls at once, half of them killed, leave nothing after DEL`, {
    timeout: 240_000,
  }, async () => {
    // The sandboxes that the mesh itself had made are replaced and taken down, so that the base is nothing.
    for (const sandbox of sandboxes.filter((_, index) => index % SANDBOXES === 0)) {
      const added = await call('ADD', sandbox);
      assert.match(added ?? '', /^0 /);
      assert.match((await call('DEL', sandbox)) ?? '', /^0 /);
    }
    let before = await level();
    // The list of sandboxes follows a moment after the answer.
    for (
      const deadline = Date.now() + 20_000;
      before.held + before.pins + before.known + before.calls > 0;
      before = await level()
    )
      assert.ok(Date.now() < deadline, JSON.stringify(before));

    for (let round = 0; round < 3; round++) {
      const answers = await Promise.all(
        sandboxes.map(async (sandbox) => {
          const kill = random() < 0.5;
          return call(random() < 0.7 ? 'ADD' : 'DEL', sandbox, kill ? random() * 400 : undefined);
        }),
      );
      assert.ok(
        answers.some((answer) => answer === undefined),
        'none was killed',
      );
      assert.ok(
        answers.some((answer) => answer?.startsWith('0 {')),
        'none was added',
      );
      // Whatever an answer is, it is one that a runtime understands.
      for (const answer of answers) {
        if (answer?.startsWith('1 ') === true)
          assert.equal((JSON.parse(answer.slice(2)) as { code: number }).code, 11);
      }
      await until('there is something to leave behind', 20_000, async () => {
        const { held, pins, known } = await level();
        return held > 0 && pins > 0 && known > 0;
      });
      for (const answer of await Promise.all(sandboxes.map(async (sandbox) => call('DEL', sandbox)))) {
        assert.match(answer ?? '', /^0 $/);
      }
    }

    const deadline = Date.now() + 60_000;
    for (;;) {
      const now = await level();
      const { descriptors, ...rest } = now;
      const { descriptors: descriptorsBefore, ...restBefore } = before;
      const same =
        JSON.stringify(rest) === JSON.stringify(restBefore) && descriptors <= descriptorsBefore + 4;
      if (same) break;
      assert.ok(Date.now() < deadline, `before ${JSON.stringify(before)}, now ${JSON.stringify(now)}`);
      await sleep(500);
    }
    for (const sandbox of sandboxes.filter((_, index) => index % SANDBOXES === 7)) {
      assert.match((await call('ADD', sandbox)) ?? '', /^0 /, 'pods are added as ever');
      assert.match((await call('DEL', sandbox)) ?? '', /^0 /);
    }
  });
});
