// SPDX-License-Identifier: Apache-2.0
// The real shim, and main.ts beside it, against a real agent socket with a fake node behind it, against nothing,
// and against peers that lie. Both programs must give the same answers.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { recordingLog, silentLog } from '#lib/core/log.ts';
import { parseExactly } from '../../cni-plugin/logic/exact-json.ts';
import type { CniAddOutcome } from '../../cni-plugin/logic/node.ts';
import { type CniServer, serveCni } from '../../cni-plugin/logic/server.ts';
import { TOMBSTONES_MAX } from '../../cni-plugin/logic/tombstones.ts';
import { fakeNode, listOf } from './fake-node.ts';

const root = join(import.meta.dirname, '../..');
const OTHER_NETNS = '/proc/self/ns/mnt';
const PREVIOUS =
  '{ "cniVersion" : "1.0.0", "ips":[{"address":"10.1.0.7/24"} ],\n "dns":{"nameservers":["]}"], "big":12345678901234567890}}';

let build = '';
before(() => {
  build = mkdtempSync(join(tmpdir(), 'nodemesh-shim-'));
  execFileSync('make', ['-s', '-C', join(root, 'cni-plugin/shim'), `OUT=${build}`]);
});
after(() => rmSync(build, { recursive: true }));

interface Answer {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const programs = {
  shim: () => [join(build, 'nodemesh-cni')],
  'main.ts': () => [process.execPath, join(root, 'cni-plugin/main.ts')],
};

async function call(command: string[], env: Record<string, string>, stdin: string | Buffer): Promise<Answer> {
  const [program = '', ...args] = command;
  const child = spawn(program, args, { env, stdio: 'pipe' });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin.on('error', () => undefined); // it may answer before it has read all
  child.stdin.end(stdin);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}

function errorCode(answer: Answer): number {
  assert.equal(answer.code, 1, answer.stdout);
  const parsed = JSON.parse(answer.stdout) as { code: number; msg: string; cniVersion: string };
  assert.ok(parsed.msg.startsWith('nodemesh: '), answer.stdout);
  assert.equal(typeof parsed.cniVersion, 'string');
  return parsed.code;
}

for (const [name, program] of Object.entries(programs)) {
  describe(`the CNI plugin (${name})`, () => {
    let dir: string;
    let socket: string;
    let servers: (CniServer | Server)[] = [];
    beforeEach(() => {
      dir = mkdtempSync(join(tmpdir(), 'nodemesh-cni-'));
      socket = join(dir, 'run', 'cni.sock');
    });
    afterEach(async () => {
      for (const server of servers) await server.close();
      servers = [];
      rmSync(dir, { recursive: true });
    });

    const env = (command: string, more: Record<string, string> = {}) => ({
      CNI_COMMAND: command,
      CNI_CONTAINERID: 'c-1',
      CNI_NETNS: OTHER_NETNS,
      CNI_IFNAME: 'eth0',
      CNI_PATH: '/opt/cni/bin',
      CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u-1',
      ...more,
    });
    const config = (more: Record<string, unknown> = {}, previous: string | null = PREVIOUS) => {
      const text = JSON.stringify({
        cniVersion: '1.0.0',
        name: 'k8s',
        type: 'nodemesh-cni',
        socket,
        enrolledList: join(dir, 'enrolled'),
        tombstones: join(dir, 'tombstones'),
        excludeNamespaces: ['quiet', 'calm'],
        ...more,
      });
      return previous === null ? text : `${text.slice(0, -1)}, "prevResult": ${previous} }`;
    };
    const ask = (command: string, more: Record<string, string> = {}, stdin: string | Buffer = config()) =>
      call(program(), env(command, more), stdin);

    async function agent(outcome: CniAddOutcome = { outcome: 'enrolled' }) {
      const fake = fakeNode();
      fake.outcome = outcome;
      const server = await serveCni(socket, fake.node, silentLog, { tombstones: join(dir, 'tombstones') });
      servers.push(server);
      return fake;
    }

    /** A peer that is no agent: answers with these bytes, or never. */
    async function liar(bytes: Buffer | undefined) {
      mkdirSync(join(dir, 'run'), { recursive: true });
      const server = createServer((peer) => {
        peer.on('error', () => undefined);
        peer.once('data', () => (bytes === undefined ? undefined : peer.end(bytes)));
        peer.on('end', () => peer.destroy());
      });
      server.listen(socket);
      await once(server, 'listening');
      servers.push(server);
    }

    it('carries ADD and DEL to the agent and its answers back', async () => {
      const { added, removed } = await agent();
      const answer = await ask('ADD');
      assert.equal(answer.code, 0, answer.stdout);
      assert.deepEqual(parseExactly(answer.stdout), parseExactly(PREVIOUS));
      assert.match(answer.stdout, /12345678901234567890/);
      if (name === 'shim') assert.equal(answer.stdout, `${PREVIOUS}\n`); // not a byte changed
      assert.equal(added.length, 1);
      assert.deepEqual(added[0]?.addresses, ['10.1.0.7']);
      assert.equal(added[0]?.uid, 'u-1');
      for (const netns of [OTHER_NETNS, '']) {
        assert.deepEqual(await ask('DEL', { CNI_NETNS: netns }, config({}, null)), {
          code: 0,
          stdout: '',
          stderr: '',
        });
      }
      assert.deepEqual(removed, ['c-1 u-1', 'c-1 u-1']);
    });

    it("carries the agent's refusal", async () => {
      await agent({ outcome: 'try-again', reason: 'the pod has no certificate yet: "soon"' });
      const answer = await ask('ADD');
      assert.equal(errorCode(answer), 11);
      assert.match(answer.stdout, /no certificate yet: \\"soon\\"/);
    });

    it('carries a configuration of nearly 1 MiB, and refuses a longer one', async () => {
      const { added } = await agent();
      const whole = config({ filler: 'x'.repeat(1_000_000) });
      assert.equal((await ask('ADD', {}, whole)).code, 0);
      assert.equal(added.length, 1);
      assert.equal(errorCode(await ask('ADD', {}, config({ filler: 'x'.repeat(1 << 20) }))), 6);
    });

    it('answers VERSION alone, in the version it was asked in', async () => {
      for (const version of ['0.3.1', '0.4.0', '1.0.0', '1.1.0']) {
        const answer = await ask('VERSION', {}, JSON.stringify({ cniVersion: version }));
        assert.deepEqual(JSON.parse(answer.stdout), {
          cniVersion: version,
          supportedVersions: ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'],
        });
        assert.equal(answer.code, 0);
      }
      assert.equal((await ask('VERSION', {}, '')).code, 0);
    });

    it('lets a pod outside the mesh start while the agent is away, with the previous result', async () => {
      for (const list of [undefined, listOf(), listOf('ns shopping', 'ns sho', 'pod u-11', 'ns ', 'pod ')]) {
        if (list !== undefined) writeFileSync(join(dir, 'enrolled'), list);
        const answer = await ask('ADD');
        assert.equal(answer.code, 0, answer.stdout);
        assert.deepEqual(JSON.parse(answer.stdout), JSON.parse(PREVIOUS));
        if (name === 'shim') assert.equal(answer.stdout, `${PREVIOUS}\n`); // not a byte changed
      }
    });

    it('holds a pod of the mesh back while the agent is away', async () => {
      const hasty = config({ deadlineMs: 100 });
      const many = Array.from({ length: 50_000 }, (_, index) => `pod x-${index}`);
      for (const list of [
        ['ns other', 'ns shop'],
        ['ns other', 'pod u-1'],
        ['ns shop', ...many],
      ]) {
        writeFileSync(join(dir, 'enrolled'), listOf(...list));
        const answer = await ask('ADD', {}, hasty);
        assert.equal(errorCode(answer), 11, list.slice(0, 2).join());
        assert.match(answer.stdout, /cannot be reached; a pod of the mesh does not start/);
      }
    });

    it('holds every pod back by a list that is damaged, except those that always pass', async () => {
      const hasty = config({ deadlineMs: 100 });
      const whole = listOf('ns other', 'ns third', 'pod u-7');
      const damages = [
        '',
        whole.slice(0, -1),
        whole.slice(0, 30),
        whole.slice(10),
        whole.replace('ns third\n', ''),
        whole.replace('end 3', 'end 4'),
        whole.replace('end 3', 'end'),
        whole.replace('-enrolled 1', '-enrolled 2'),
        'ns other\n',
        '\0'.repeat(4096),
        '\n\n\n',
        'x'.repeat((4 << 20) + 1),
      ];
      for (const list of damages) {
        writeFileSync(join(dir, 'enrolled'), list);
        const answer = await ask('ADD', {}, hasty);
        assert.equal(errorCode(answer), 11, list.slice(0, 60));
        assert.match(answer.stdout, /list of what is in the mesh cannot be read/, list.slice(0, 60));
      }
      rmSync(join(dir, 'enrolled'));
      mkdirSync(join(dir, 'enrolled')); // there, but not readable
      assert.equal(errorCode(await ask('ADD', {}, hasty)), 11);
      for (const args of ['K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=x', 'K8S_POD_NAMESPACE=nodemesh', '']) {
        assert.equal((await ask('ADD', { CNI_ARGS: args }, hasty)).code, 0, args);
      }
    });

    it('lets excluded namespaces pass, listed or not, with the agent there or not', async () => {
      const names = ['kube-system', 'nodemesh', 'quiet', 'calm'];
      writeFileSync(join(dir, 'enrolled'), listOf(...names.map((entry) => `ns ${entry}`)));
      for (const namespace of names) {
        const answer = await ask('ADD', { CNI_ARGS: `K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=x` });
        assert.equal(answer.code, 0, `${namespace} ${answer.stdout}`);
      }
    });

    it('waits a moment for an agent that restarts', async () => {
      writeFileSync(join(dir, 'enrolled'), listOf('ns shop'));
      const answer = ask('ADD');
      const { added } = await agent();
      assert.equal((await answer).code, 0);
      assert.equal(added.length, 1);
    });

    it('leaves a tombstone for DEL while the agent is away, which the agent takes', async () => {
      assert.equal((await ask('DEL', { CNI_NETNS: '' }, config({}, null))).code, 0);
      assert.equal((await ask('DEL', { CNI_CONTAINERID: 'c-2', CNI_ARGS: '' })).code, 0);
      const folder = join(dir, 'tombstones');
      assert.deepEqual(readdirSync(folder), ['c-1', 'c-2']);
      assert.equal(readFileSync(join(folder, 'c-1'), 'utf8'), 'u-1');
      assert.equal(statSync(join(folder, 'c-1')).mode & 0o777, 0o600);

      const removed: string[] = [];
      const gone = Promise.withResolvers<void>();
      let fails = 1;
      const { node } = fakeNode({
        removePod: (containerId, uid) => {
          if (containerId === 'c-2' && fails-- > 0) return Promise.reject(new Error('not now'));
          removed.push(`${containerId} ${uid}`);
          if (removed.length === 2) gone.resolve();
          return Promise.resolve();
        },
      });
      const clock = new VirtualClock();
      const lines = recordingLog();
      const server = await serveCni(socket, node, lines, { tombstones: folder, clock });
      servers.push(server);
      while (clock.pendingTimers === 0) await new Promise(setImmediate);
      assert.deepEqual(removed, ['c-1 u-1']);
      assert.ok(lines.lines.some((line) => line.level === 'warn' && line.fields['error'] === 'not now'));
      clock.advance(30_000);
      await gone.promise;
      while (existsSync(join(folder, 'c-2'))) await new Promise(setImmediate);
    });

    it('leaves so many tombstones and no more', async () => {
      const folder = join(dir, 'tombstones');
      mkdirSync(folder);
      for (let index = 1; index < TOMBSTONES_MAX; index++) writeFileSync(join(folder, `x-${index}`), '');
      for (const id of ['c-1', 'c-2', 'c-3']) {
        assert.equal((await ask('DEL', { CNI_CONTAINERID: id })).code, 0);
      }
      assert.equal(readdirSync(folder).length, TOMBSTONES_MAX);
      assert.ok(existsSync(join(folder, 'c-1')));
    });

    it('takes no tombstone for a sandbox that was added since under the same id', async () => {
      const note = join(dir, 'tombstones', 'c-1');
      await ask('DEL');
      assert.ok(existsSync(note));
      assert.equal((await ask('ADD')).code, 0);
      assert.ok(!existsSync(note), 'ADD while the agent is away');
      await agent(); // its first look at the folder finds nothing
      mkdirSync(join(dir, 'tombstones'), { recursive: true });
      writeFileSync(note, 'u-1');
      assert.equal((await ask('ADD')).code, 0);
      assert.ok(!existsSync(note), 'ADD with the agent there');
    });

    it('never writes a tombstone outside its folder', async () => {
      for (const id of ['../escape', '..', 'a/b', '.hidden', 'x'.repeat(251), '']) {
        assert.equal(errorCode(await ask('DEL', { CNI_CONTAINERID: id })), 4, id);
      }
      assert.deepEqual(
        readdirSync(dir).filter((entry) => entry !== 'tombstones'),
        [],
      );
      if (existsSync(join(dir, 'tombstones'))) assert.deepEqual(readdirSync(join(dir, 'tombstones')), []);
    });

    it('answers CHECK with success, GC with 11 and STATUS with 50 while the agent is away', async () => {
      const newest = config({ cniVersion: '1.1.0', deadlineMs: 100, 'cni.dev/valid-attachments': [] });
      assert.deepEqual(await ask('CHECK'), { code: 0, stdout: '', stderr: '' });
      assert.equal(errorCode(await ask('GC', {}, newest)), 11);
      assert.equal(errorCode(await ask('STATUS', {}, newest)), 50);
      const { kept } = await agent();
      assert.equal((await ask('STATUS', {}, newest)).code, 0);
      assert.deepEqual(await ask('GC', {}, newest), { code: 0, stdout: '', stderr: '' });
      assert.deepEqual(kept, [{ network: 'k8s', attachments: [] }]);
    });

    it('carries CHECK to the agent and its complaint back', async () => {
      const fake = await agent();
      assert.deepEqual(await ask('CHECK'), { code: 0, stdout: '', stderr: '' });
      assert.deepEqual(fake.checked[0]?.addresses, ['10.1.0.7']);
      fake.health = { outcome: 'broken', reason: 'pod shop/web-1 is not redirected' };
      assert.equal(errorCode(await ask('CHECK')), 11);
    });

    it('names missing and wrong input', async () => {
      assert.equal(errorCode(await call(program(), {}, config())), 4);
      assert.equal(errorCode(await ask('add')), 4);
      assert.equal(errorCode(await ask('"\\\n')), 4);
      for (const stdin of ['', '{', '[]', 'null', '{"a":}', '{} x', '{"a":"b}', '['.repeat(100_000)]) {
        assert.equal(errorCode(await ask('ADD', {}, stdin)), 6, stdin.slice(0, 20));
      }
      assert.equal(errorCode(await ask('ADD', {}, Buffer.of(0, 255, 123, 0))), 6);
      assert.equal(errorCode(await ask('ADD', {}, config({}, null))), 7);
      assert.equal(errorCode(await ask('ADD', {}, config({}, 'null'))), 7);
      assert.equal(errorCode(await ask('ADD', {}, config({}, '[]'))), 6);
      assert.equal(errorCode(await ask('ADD', {}, config({ socket: 7 }))), 7);
      assert.equal(errorCode(await ask('ADD', {}, config({ cniVersion: 7 }))), 6);
    });

    it('names the variable that is missing, with the agent there or not', async () => {
      const needed = {
        ADD: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
        CHECK: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
        DEL: ['CNI_CONTAINERID'],
      };
      for (const state of ['away', 'there']) {
        if (state === 'there') await agent();
        for (const [command, variables] of Object.entries(needed)) {
          for (const variable of variables) {
            const answer = await ask(command, { [variable]: '' });
            assert.equal(errorCode(answer), 4, `${command} ${variable} ${state}`);
            assert.match(answer.stdout, new RegExp(`${variable} is not set`));
          }
        }
        assert.equal(errorCode(await ask('ADD', { CNI_NETNS: 'relative' })), 4);
      }
    });

    it('refuses versions that it does not know with code 1 and says which it does', async () => {
      for (const version of ['0.2.0', '0.5.0', '1.2.0', '1.0', '2.0.0', '', undefined]) {
        const answer = await ask('ADD', {}, config({ cniVersion: version }));
        assert.equal(errorCode(answer), 1, String(version));
        assert.match(answer.stdout, /0\.3\.0, 0\.3\.1, 0\.4\.0, 1\.0\.0, 1\.1\.0/);
      }
      for (const [command, version] of [
        ['CHECK', '0.3.1'],
        ['GC', '1.0.0'],
        ['STATUS', '0.4.0'],
      ] as const) {
        const answer = await ask(command, {}, config({ cniVersion: version }));
        assert.equal(errorCode(answer), 1, command);
        assert.equal((JSON.parse(answer.stdout) as { cniVersion: string }).cniVersion, version);
      }
      for (const version of ['0.2.0', '9.0.0']) {
        assert.equal((await ask('DEL', {}, config({ cniVersion: version }))).code, 0, 'pods go all the same');
      }
    });

    for (const version of ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0']) {
      it(`hands a result of ${version} on as it is, with the agent there or not`, async () => {
        const old = version.startsWith('0.');
        const previous = {
          cniVersion: version,
          interfaces: [{ name: 'eth0', sandbox: OTHER_NETNS }],
          ips: [{ ...(old ? { version: '4' } : {}), address: '10.1.0.7/24', interface: 0 }],
          routes: [{ dst: '0.0.0.0/0' }],
          dns: {},
        };
        const stdin = config({ cniVersion: version }, JSON.stringify(previous));
        assert.deepEqual(JSON.parse((await ask('ADD', {}, stdin)).stdout), previous);
        await agent();
        assert.deepEqual(JSON.parse((await ask('ADD', {}, stdin)).stdout), previous);
        const { cniVersion, ...without } = previous;
        const bare = config({ cniVersion: version }, JSON.stringify(without));
        assert.deepEqual(JSON.parse((await ask('ADD', {}, bare)).stdout), { cniVersion, ...without });
        const empty = await ask('ADD', {}, config({ cniVersion: version }, ' { } '));
        assert.deepEqual(JSON.parse(empty.stdout), { cniVersion });
      });
    }

    it('refuses a result of a version that it does not know, and fields that it cannot serve', async () => {
      const foreign = '{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.7/24"}}';
      const field = config({ ipam: { type: 'host-local', note: 'a "quoted" \\ text' } });
      for (const state of ['away', 'there']) {
        if (state === 'there') await agent();
        assert.equal(errorCode(await ask('ADD', {}, config({}, foreign))), 7);
        const answer = await ask('ADD', {}, field);
        assert.equal(errorCode(answer), 2);
        assert.match((JSON.parse(answer.stdout) as { msg: string }).msg, /ipam.*host-local/);
        assert.equal(errorCode(await ask('CHECK', {}, config({ ipMasq: true }))), 2);
        assert.equal((await ask('ADD', {}, config({ ipMasq: false, args: { any: 1 } }))).code, 0);
        assert.equal((await ask('DEL', {}, field)).code, 0);
      }
    });

    it('gives up on an agent that never answers, at its own deadline and with a clear error', async () => {
      await liar(undefined);
      writeFileSync(join(dir, 'enrolled'), listOf('ns shop'));
      const started = performance.now();
      const answer = await ask('ADD', {}, config({ deadlineMs: 400 }));
      assert.equal(errorCode(answer), 11);
      assert.match(answer.stdout, /no answer/);
      assert.ok(performance.now() - started >= 400);
      assert.equal(errorCode(await ask('STATUS', {}, config({ cniVersion: '1.1.0', deadlineMs: 300 }))), 50);
      assert.equal((await ask('DEL', {}, config({ deadlineMs: 300 }))).code, 0);
      assert.deepEqual(readdirSync(join(dir, 'tombstones')), ['c-1']);
    });

    it("tells nothing to a socket of another user, whoever's place it took", async () => {
      const open = join(dir, 'run');
      mkdirSync(open);
      chmodSync(dir, 0o755);
      chmodSync(open, 0o777);
      const child = spawn(
        'socat',
        ['-u', `UNIX-LISTEN:${socket},fork`, `OPEN:${join(open, 'heard')},creat,append`],
        {
          uid: 65534,
          gid: 65534,
          cwd: '/',
          stdio: 'ignore',
        },
      );
      try {
        while (!existsSync(socket)) await new Promise(setImmediate);
        writeFileSync(join(dir, 'enrolled'), listOf('ns shop'));
        const answer = await ask('ADD', {}, config({ deadlineMs: 300 }));
        assert.equal(errorCode(answer), 11);
        assert.match(answer.stdout, /belongs to another user/);
        rmSync(join(dir, 'enrolled'));
        assert.equal((await ask('ADD', {}, config({ deadlineMs: 300 }))).code, 0);
        const heard = join(open, 'heard');
        assert.equal(existsSync(heard) ? readFileSync(heard, 'utf8') : '', '');
      } finally {
        child.kill();
        await once(child, 'close');
      }
    });

    it('takes garbage, silence and early ends from the socket as an absent agent', async () => {
      const lies = [
        Buffer.alloc(0),
        Buffer.from('HTTP/1.1 200 OK\r\n\r\n'),
        Buffer.of(0, 0, 0, 2, 0, 0),
        Buffer.of(0, 0, 0, 100, 0, 0, 0, 0),
        Buffer.of(255, 255, 255, 255, 0, 0, 0, 0),
        Buffer.of(0, 0, 0, 4, 0, 0, 0, 0, 1), // a byte too much
        Buffer.of(0, 0, 0, 6, 0, 0, 0, 1, 0x6e, 0x6f), // a failure that is no error object
        undefined,
      ];
      for (const bytes of lies) {
        await liar(bytes);
        const stdin = config({ deadlineMs: 300 });
        rmSync(join(dir, 'enrolled'), { force: true });
        assert.equal((await ask('ADD', {}, stdin)).code, 0, String(bytes));
        writeFileSync(join(dir, 'enrolled'), listOf('ns shop'));
        assert.equal(errorCode(await ask('ADD', {}, stdin)), 11, String(bytes));
        await servers.pop()?.close();
      }
    });
  });
}

describe('the shim', () => {
  it('survives damaged configurations', async () => {
    const random = seededRandom(7);
    const whole = `{"cniVersion":"1.0.0","name":"k8s","socket":"/nowhere/cni.sock","enrolledList":"/nowhere/list",
      "excludeNamespaces":["a","b\\"c"],"x":[1,-2.5e3,true,null,{"y":[]}],"prevResult":${PREVIOUS}}`;
    const env = {
      CNI_COMMAND: 'ADD',
      CNI_CONTAINERID: 'c',
      CNI_NETNS: OTHER_NETNS,
      CNI_IFNAME: 'eth0',
      CNI_ARGS: 'K8S_POD_NAMESPACE=shop;=;;x',
    };
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(whole);
      const damages = 1 + Math.floor(random() * 4);
      for (let count = 0; count < damages; count++) {
        const at = Math.floor(random() * bytes.length);
        bytes[at] =
          random() < 0.5 ? Math.floor(random() * 256) : '{}[]",:\\'.charCodeAt(Math.floor(random() * 8));
      }
      const cut = random() < 0.3 ? Math.floor(random() * bytes.length) : bytes.length;
      const answer = await call([join(build, 'nodemesh-cni')], env, bytes.subarray(0, cut));
      // A signal would be null. It may be laxer than JSON, but what it takes apart it must take apart right.
      assert.ok(answer.code === 0 || answer.code === 1, `round ${round}: ${bytes.toString()}`);
      if (answer.code === 1) assert.equal(errorCode(answer) > 0, true);
      else
        assert.ok(
          // Without its own version the result gets the call's in front.
          bytes.includes(answer.stdout.trimEnd().replace(/^\{"cniVersion":"1\.0\.0",?/, '')) ||
            answer.stdout.includes('\ufffd'),
          `round ${round}`,
        );
    }
  });
});

describe('the agent CNI socket', () => {
  let dir: string;
  let socket: string;
  let server: CniServer;
  const log = recordingLog();
  const clock = new VirtualClock();
  const hold = Promise.withResolvers<CniAddOutcome>();
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-cni-'));
    socket = join(dir, 'run', 'cni.sock');
    const { node } = fakeNode({ addPod: async () => hold.promise });
    server = await serveCni(socket, node, log, { concurrentMax: 2, clock });
  });
  afterEach(async () => {
    clock.advance(60_000);
    await server.close();
    rmSync(dir, { recursive: true });
  });

  const open = async () => {
    const peer = connect({ path: socket, allowHalfOpen: true });
    await once(peer, 'connect');
    return peer;
  };
  const replyTo = async (bytes: Buffer) => {
    const peer = await open();
    peer.write(bytes);
    let text = '';
    for await (const chunk of peer) text += String(chunk);
    return text.slice(8);
  };

  it('is for root only and leaves nothing behind', async () => {
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    assert.equal(statSync(join(dir, 'run')).mode & 0o777, 0o700);
    await server.close();
    assert.deepEqual(readdirSync(join(dir, 'run')), []);
  });

  it('takes the place of a socket that a dead agent left', async () => {
    const again = await serveCni(socket, fakeNode().node, log);
    await server.close(); // the old one does not remove the new one's socket
    assert.ok(existsSync(socket));
    await again.close();
    assert.ok(!existsSync(socket));
  });

  it('answers garbage with an error and lives on', async () => {
    for (const bytes of [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.of(0, 0, 0, 3, 1, 2, 3),
      Buffer.of(255, 255, 255, 255),
      Buffer.of(0, 0, 0, 0),
    ]) {
      assert.equal((JSON.parse(await replyTo(bytes)) as { code: number }).code, 6);
    }
  });

  it('lets a caller finish whose request it has refused already', async () => {
    const peer = await open();
    peer.write(Buffer.of(255, 255, 255, 255));
    await once(peer, 'readable');
    // A closed socket would answer with EPIPE, and Node would throw the answer away.
    await new Promise(setImmediate);
    await new Promise<void>((resolve, reject) =>
      peer.write(Buffer.alloc(5000), (error) => (error ? reject(error) : resolve())),
    );
    let text = '';
    for await (const chunk of peer) text += String(chunk);
    assert.equal((JSON.parse(text.slice(8)) as { code: number }).code, 6);
  });

  it('refuses a process that is not root, whoever opened the door to it', async () => {
    chmodSync(dir, 0o755);
    chmodSync(join(dir, 'run'), 0o755);
    chmodSync(socket, 0o666);
    // Any program that nobody may run and that says how it ended.
    const child = spawn('socat', ['-u', `UNIX-CONNECT:${socket}`, '-'], {
      uid: 65534,
      gid: 65534,
      cwd: '/',
      stdio: 'pipe',
    });
    const [code] = (await once(child, 'close')) as [number | null];
    assert.equal(code, 0); // connected, then closed without a word
    assert.ok(log.lines.some((line) => line.fields['uid'] === 65534));
  });

  it('closes on a caller that stays silent, and takes two calls at once but not three', async () => {
    const first = await open();
    const second = await open();
    first.resume();
    second.resume();
    const third = JSON.parse(await replyTo(Buffer.alloc(0))) as { code: number };
    assert.equal(third.code, 11);
    const closed = Promise.all([once(first, 'close'), once(second, 'end')]);
    clock.advance(5000);
    await once(second, 'end').then(() => second.destroy());
    first.destroy();
    await closed;
  });

  it('answers try again when the node takes too long', async () => {
    const payload = Buffer.from(
      `NMCNI1\0CNI_COMMAND=ADD\0CNI_CONTAINERID=c\0CNI_IFNAME=eth0\0CNI_NETNS=${OTHER_NETNS}\0CNI_ARGS=K8S_POD_NAMESPACE=a\0\0{"cniVersion":"1.0.0","prevResult":{}}`,
    );
    const head = Buffer.alloc(4);
    head.writeUInt32BE(payload.length);
    const peer = await open();
    peer.write(Buffer.concat([head, payload]));
    let text = '';
    peer.on('data', (chunk: Buffer) => (text += chunk.toString()));
    const ended = once(peer, 'end');
    // The request is on its way: move time only when its own deadline is set.
    while (
      !log.lines.some(
        (line) => line.message === 'CNI call refused' && String(line.fields['answer']).includes('25000'),
      )
    ) {
      clock.advance(1000);
      await new Promise(setImmediate);
    }
    await ended;
    peer.destroy();
    assert.equal((JSON.parse(text.slice(8)) as { code: number }).code, 11);
  });
});
