// SPDX-License-Identifier: Apache-2.0
// Network policies as nftables rules in the server's node, where CNI plugins put theirs: a policy gives the same answer
// to a client on the same node, whichever way two pods of a node speak, as to one on another node; and one that is
// added later ends what speaks already. What is established under stateful rules is in test/e2e/same-node.test.ts.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { sumOf } from '../../conformance/metrics.ts';
import { HTTP_PORT, TCP_PORT } from '../../faults/load.ts';
import type { Cluster, KubernetesObject } from '../cluster.ts';
import type { Installation } from '../installation.ts';
import { clientPod, echoPod, KEEP_USING, loadPrograms } from '../load-pods.ts';
import { scrapeNode, untilReason } from '../mesh.ts';
import { sharedMesh } from '../shared-mesh.ts';

const NS = 'network-policy';
const PLAIN = 'network-policy-plain';
const MESH_PORT = 4143;
const TABLE = 'network_policy';
/** A permit is asked for again after 8 s and has two attempts of 1 s each; the rest is for a busy machine. */
const CUT_MS = 10_000 + 15_000;
const USE_SECONDS = 40;
const NOTHING = '';

type Client = 'near' | 'far' | 'outsider';

describe('a network policy on the nodes', { timeout: 800_000 }, () => {
  const shared = sharedMesh();
  let cluster: Cluster;
  let mesh: Installation;
  let server = '';

  const node = () => cluster.nodes[0] ?? assert.fail('there are nodes');
  const nft = (rules: readonly string[]): Promise<string> =>
    node().output(['nft', '-f', '-'], { input: `${rules.join('\n')}\n` });
  const addressOf = async (pod: string): Promise<string> =>
    (await cluster.get<KubernetesObject & { status: { podIP: string } }>(['pod', pod, `--namespace=${NS}`]))
      .status.podIP;

  const chain = [
    `add table inet ${TABLE}`,
    `add chain inet ${TABLE} forward { type filter hook forward priority 10; }`,
  ];
  const rule = (text: string): string => `add rule inet ${TABLE} forward ${text}`;
  /** The server takes connections at this port and no other. */
  const allowOnly = (port: number): Promise<string> =>
    nft([
      ...chain,
      rule('ct state established,related accept'),
      rule(`ip daddr ${server} tcp dport ${port} accept`),
      rule(`ip daddr ${server} counter drop`),
    ]);
  const allowAll = (): Promise<string> => nft([`add table inet ${TABLE}`, `delete table inet ${TABLE}`]);

  const inside = (client: Client, argv: readonly string[], input?: string) =>
    cluster.exec(
      { namespace: client === 'outsider' ? PLAIN : NS, pod: client },
      argv,
      input === undefined ? {} : { input },
    );
  /** Status and reason. */
  const askHttp = async (client: Client): Promise<string> => {
    const format = '%{http_code} %header{l5d-proxy-error}';
    const url = `http://server.${NS}:${HTTP_PORT}/`;
    const argv = ['curl', '-s', '-o', '/dev/null', '-w', format, '--max-time', '6', url];
    return (await inside(client, argv)).stdout.trim().replaceAll(server, 'SERVER');
  };
  const askTcp = async (client: Client): Promise<string> => {
    const argv = ['busybox', 'nc', '-w', '6', `server.${NS}`, String(TCP_PORT)];
    return (await inside(client, argv, 'hello\n')).stdout;
  };
  const answers = async (client: Client): Promise<readonly [string, string]> =>
    Promise.all([askHttp(client), askTcp(client)]);
  const SERVED = ['200', 'hello server\n'];
  const untilServed = (client: Client): Promise<unknown> =>
    cluster.waitFor(`${client} is served`, async () => {
      const [http, tcp] = await answers(client);
      return http === SERVED[0] && tcp === SERVED[1];
    });
  const granted = async (): Promise<number> =>
    sumOf(await scrapeNode(cluster, node().name), 'nodemesh_same_node_permits_total', { result: 'granted' });

  before(async () => {
    ({ cluster, mesh } = await shared.open());
    const [near = '', far = ''] = cluster.nodes.map(({ name }) => name);
    for (const namespace of [NS, PLAIN]) await cluster.makeNamespace(namespace);
    await cluster.kubectl(['annotate', 'namespace', NS, 'linkerd.io/inject=enabled']);
    await cluster.apply([
      loadPrograms(NS),
      loadPrograms(PLAIN),
      ...echoPod(NS, 'server', { node: near }),
      clientPod(NS, 'near', { node: near }),
      clientPod(NS, 'far', { node: far }),
      clientPod(PLAIN, 'outsider', { node: far }),
    ]);
    await cluster.podsReady(PLAIN, 'app=outsider', 1);
    const pods = ['server', 'near', 'far'];
    await untilReason(cluster, NS, pods, 'Enrolled');
    // The condition is there before the address is.
    for (const pod of pods) await cluster.podsReady(NS, `app=${pod}`, 1);
    server = await addressOf('server');
  });
  after(async () => {
    if (cluster === undefined) return shared.close();
    try {
      await allowAll();
    } finally {
      await shared.close();
    }
  });

  // The last one is how it is installed.
  for (const mode of ['carrier', 'memory'] as const) {
    describe(`where pods of one node speak by ${mode}`, () => {
      before(async () => {
        await mesh.installNodes('--set', `nodemesh.sameNode=${mode}`);
        await mesh.agentsRolled();
        for (const client of ['near', 'far', 'outsider'] as const) await untilServed(client);
      });

      it('a policy that allows the port of the mesh alone lets the mesh through, from either node', async () => {
        await allowOnly(MESH_PORT);
        const [near, far, outsider] = await Promise.all((['near', 'far', 'outsider'] as const).map(answers));
        assert.deepEqual(near, SERVED);
        assert.deepEqual(far, SERVED);
        assert.deepEqual(outsider, ['000', NOTHING]);
        await allowAll();
      });

      it("a policy that allows the application's port alone keeps the mesh out, from either node, with one answer", async () => {
        // What is established goes on: the pairs begin anew under the policy.
        await allowOnly(HTTP_PORT);
        await Promise.all(
          (['near', 'far'] as const).map((client) =>
            cluster.waitFor(`the ${client} client is cut off`, async () => {
              const [http, tcp] = await answers(client);
              return http !== SERVED[0] && tcp !== SERVED[1];
            }),
          ),
        );
        const [near, far] = await Promise.all((['near', 'far'] as const).map(answers));
        assert.match(near?.[0] ?? '', /^50[234] /);
        assert.equal(near?.[1], NOTHING);
        assert.deepEqual(near, far);
        assert.equal(await askHttp('outsider'), '200');
        await allowAll();
        for (const client of ['near', 'far'] as const) await untilServed(client);
      });

      it('a policy that is added later ends what two pods of the node say to each other', async () => {
        const grantedBefore = await granted();
        const argv = [
          'node',
          KEEP_USING,
          'http',
          `server.${NS}`,
          String(HTTP_PORT),
          String(USE_SECONDS),
          '/tmp/used',
        ];
        const using = inside('near', argv);
        await cluster.waitFor(
          'it is in use',
          async () => (await inside('near', ['rm', '/tmp/used'])).code === 0,
        );
        const client = await addressOf('near');
        await nft([
          ...chain,
          // Memory is cut off even where what is established goes on.
          ...(mode === 'memory' ? [rule('ct state established,related accept')] : []),
          rule(`ip saddr ${client} ip daddr ${server} counter drop`),
        ]);
        const addedAt = Date.now();
        const { stdout, stderr } = await using;
        await allowAll();
        assert.notEqual(stdout, '', stderr);
        const { workedAt, failure } = JSON.parse(stdout) as { workedAt: number; failure?: string };
        assert.notEqual(failure, undefined, 'it went on');
        assert.ok(workedAt - addedAt < CUT_MS, `it went on for ${workedAt - addedAt} ms`);
        if (mode === 'memory') assert.ok(grantedBefore > 0);
        else assert.equal(await granted(), grantedBefore);
        await untilServed('near');
      });
    });
  }
});
