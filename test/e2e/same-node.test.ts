// SPDX-License-Identifier: Apache-2.0
// What the network lets through between two pods of one node, in each of the ways in which they can speak: rules that
// are there at first keep everything out; rules that are added later end what passes in memory within 10 s, and do with
// connections what they do without a mesh; once they are gone, requests pass again. Taps hear the same in each way.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { podNetns } from '../../local/layout.ts';
import { countedMs } from '../faults/pauses.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, type Series, total } from './scrape.ts';

const NAME = 'c-same-node';
const NS = 'mesh';
const HTTP = 8080;
const IDENTITY = 'default.mesh.serviceaccount.identity.linkerd.cluster.local';
const program = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));
/** A permit is asked for again after 8 s and has two attempts of 1 s each. */
const CUT_MS = 10_000;
/** For what the test itself takes on a busy machine. */
const SLACK_MS = 4_000;
const CLIENTS = ['stateless', 'stateful', 'asks', 'tunnel'] as const;

interface TapPeer {
  readonly ip: string;
  readonly tls: string;
  readonly identity?: string;
}
interface TapEvent {
  readonly type: string;
  readonly direction?: string;
  readonly path?: string;
  readonly source?: TapPeer;
  readonly destination?: TapPeer;
  readonly status?: number;
}
type Use = { readonly workedAt: number; readonly failedAt: number; readonly failure?: string };

describe('two pods of one node', () => {
  let mesh: LocalMesh;
  before(async () => {
    mesh = await startMesh({
      name: NAME,
      nodes: 1,
      agentEnv: { NODEMESH_WORKERS: '2' },
      objects: [
        namespace(NS, meshed),
        pod(NS, 'server', ['node', program('greeter.ts'), String(HTTP)], { readinessPort: HTTP }),
        service(NS, 'server', HTTP),
        ...CLIENTS.map((name) => pod(NS, name, [])),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const addressesOf = async (name: string): Promise<string[]> =>
    ((await mesh.pod(name, NS)).status?.podIPs ?? []).map(({ ip }) => ip);
  const ask = async (client: string, path = '/'): Promise<string> => {
    const url = `http://server:${HTTP}${path}`;
    const curl = ['curl', '-sS', '-w', '%{http_code}', '--max-time', '8', url];
    const { stdout, stderr } = await mesh.exec(client, curl, { ns: NS });
    return stdout + stderr;
  };
  const passes = new RegExp(`client=${IDENTITY} .*\n200$`);
  const begunFile = '/run/using.begun';
  const keepUsing = async (client: string, way: 'http' | 'tunnel', seconds: number): Promise<Use> => {
    const argv = ['node', program('keep-using.ts'), way, 'server', String(HTTP), String(seconds), begunFile];
    const { stdout, stderr } = await mesh.exec(client, argv, { ns: NS });
    assert.notEqual(stdout, '', stderr);
    return JSON.parse(stdout) as Use;
  };

  /** What a CNI does for a NetworkPolicy: `stateful` in the node, where what is established goes on, else in the pod. */
  async function deny(client: string, kind: 'stateless' | 'stateful'): Promise<void> {
    const chain = kind === 'stateful' ? 'forward' : 'input';
    const rules = [
      `add table inet ${client}`,
      `add chain inet ${client} deny { type filter hook ${chain} priority 10; }`,
      ...(kind === 'stateful' ? [`add rule inet ${client} deny ct state established,related accept`] : []),
      ...(await addressesOf(client)).map((ip) => {
        const family = ip.includes(':') ? 'ip6' : 'ip';
        return `add rule inet ${client} deny ${family} saddr ${ip} tcp dport 4143 drop`;
      }),
    ];
    nft(kind, ['-f', '-'], `${rules.join('\n')}\n`);
  }
  function allow(client: string, kind: 'stateless' | 'stateful'): void {
    nft(kind, ['delete', 'table', 'inet', client]);
  }
  function nft(kind: 'stateless' | 'stateful', args: readonly string[], input = ''): void {
    const netns = kind === 'stateful' ? mesh.node('node1').layout.netns : podNetns(NAME, NS, 'server');
    execFileSync('ip', ['netns', 'exec', netns, 'nft', ...args], { input });
  }

  const permitsIn = (series: readonly Series[], result: string): number =>
    total(series, 'nodemesh_same_node_permits_total', { result });
  const permits = async (result: string): Promise<number> => permitsIn(await scrape(mesh, 'node1'), result);

  /** Connections to the mesh port. */
  const connectionsIn = (series: readonly Series[]): number =>
    total(series, 'inbound_tcp_transport_header_connections_total', {});
  /** Of one request. */
  async function tap(name: string): Promise<TapEvent[]> {
    const node = mesh.node('node1');
    const url = `http://agent/tap?pod=${NS}/${name}&max=1`;
    const socket = join(node.layout.runDir, 'agent.sock');
    const { stdout, stderr } = await node.exec([
      'curl',
      '-sS',
      '--max-time',
      '30',
      '--unix-socket',
      socket,
      url,
    ]);
    assert.equal(stderr, '');
    return stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as TapEvent);
  }

  for (const mode of ['memory', 'carrier', 'mtls'] as const) {
    describe(`that speak by ${mode}`, () => {
      before(async () => {
        const node = mesh.node('node1');
        await node.stopAgent();
        await node.startAgent({ env: { NODEMESH_SAME_NODE: mode } });
        await node.agentReady();
        await mesh.waitReady();
      });

      it('taps of both pods hear of a request, its answer and its end, and who is at the other side', async () => {
        let over = 0;
        const [atClient, atServer] = ['asks', 'server'].map(async (name) =>
          tap(name).finally(() => over++),
        ) as [Promise<TapEvent[]>, Promise<TapEvent[]>];
        await until('both have heard of one', 20_000, async () => {
          assert.match(await ask('asks', '/tapped'), passes);
          return over === 2;
        });
        for (const events of [await atClient, await atServer]) {
          assert.deepEqual(
            events.map(({ type }) => type),
            ['request', 'response', 'end'],
          );
        }
        const [sent, [got, answered]] = [(await atClient)[0], await atServer];
        const tls = mode === 'mtls' ? 'mtls' : 'carrier';
        assert.equal(sent?.direction, 'outbound');
        assert.equal(sent.path, '/tapped');
        assert.equal(sent.destination?.identity, IDENTITY);
        assert.equal(sent.destination?.tls, tls);
        assert.equal(got?.direction, 'inbound');
        assert.equal(got.path, '/tapped');
        assert.equal(got.source?.identity, IDENTITY);
        assert.equal(got.source?.tls, tls);
        assert.ok((await addressesOf('asks')).includes(got.source?.ip ?? ''));
        assert.equal(answered?.status, 200);
        // A permit that is asked for anew is counted at one end before the other.
        if (mode === 'memory')
          await until('the permits account for every connection', 20_000, async () => {
            const series = await scrape(mesh, 'node1');
            return connectionsIn(series) === permitsIn(series, 'granted');
          });
        else assert.ok(connectionsIn(await scrape(mesh, 'node1')) > 0);
      });

      for (const kind of ['stateless', 'stateful'] as const) {
        it(`a ${kind} rule that is there at first keeps requests out, until it is gone`, async () => {
          await deny(kind, kind);
          assert.match(await ask(kind), /50[24]$/);
          allow(kind, kind);
          await until('requests pass', 20_000, async () => passes.test(await ask(kind)) || undefined);
          if (mode === 'memory') {
            assert.ok((await permits('refused')) > 0);
            assert.ok((await permits('granted')) > 0);
          } else assert.equal(await permits('granted'), 0);
        });
      }

      /** Adds a rule while something is in use; how long it went on, or undefined if it did not stop. */
      async function addedLater(
        client: 'asks' | 'tunnel',
        kind: 'stateless' | 'stateful',
      ): Promise<number | undefined> {
        await until('requests pass', 20_000, async () => passes.test(await ask(client)) || undefined);
        // It ends when it is cut off; otherwise it is watched for some seconds.
        const seconds = mode === 'memory' || kind === 'stateless' ? 60 : 7;
        const using = keepUsing(client, client === 'asks' ? 'http' : 'tunnel', seconds);
        await until(
          'it is in use',
          20_000,
          async () => (await mesh.exec(client, ['rm', begunFile], { ns: NS })).code === 0,
        );
        await deny(client, kind);
        const addedAt = Date.now();
        const { workedAt, failure } = await using;
        allow(client, kind);
        return failure === undefined ? undefined : countedMs(addedAt, workedAt);
      }

      it('a stateful rule that is added later', async () => {
        const [asks, tunnel] = await Promise.all([
          addedLater('asks', 'stateful'),
          addedLater('tunnel', 'stateful'),
        ]);
        if (mode === 'memory') {
          for (const lasted of [asks, tunnel]) {
            assert.ok(lasted !== undefined && lasted < CUT_MS + SLACK_MS, `went on for ${lasted} ms`);
          }
        } else {
          // An established connection goes on, as without a mesh.
          assert.equal(asks, undefined);
          assert.equal(tunnel, undefined);
        }
      });

      it('a stateless rule that is added later', async () => {
        const lasted = await addedLater('asks', 'stateless');
        const limit = mode === 'memory' ? CUT_MS : 0;
        assert.ok(lasted !== undefined && lasted < limit + SLACK_MS, `went on for ${lasted} ms`);
        await until('requests pass again', 30_000, async () => passes.test(await ask('asks')) || undefined);
      });
    });
  }
});
