// SPDX-License-Identifier: Apache-2.0
// config.linkerd.io/access-log: who asks for lines finds them in the output of the server's agent, at once and no
// longer than it is asked for; nobody else's requests are there.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, total } from './scrape.ts';

const program = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));
const PORT = 8080;
const LINKERD = 'config.linkerd.io/access-log';

describe('access logs', () => {
  let mesh: LocalMesh;
  before(async () => {
    const mirror = ['node', program('mirror.ts'), String(PORT), '7070'];
    mesh = await startMesh({
      name: 'd-access-log',
      objects: [
        namespace('mesh', meshed),
        pod('mesh', 'server', mirror, {
          node: 'node1',
          readinessPort: 7070,
          annotations: { [LINKERD]: 'json' },
        }),
        pod('mesh', 'silent', mirror, { node: 'node1', readinessPort: 7070 }),
        service('mesh', 'server', PORT),
        service('mesh', 'silent', PORT),
        pod('mesh', 'near', [], { node: 'node1' }),
        pod('mesh', 'far', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const ask = async (client: string, path: string, target = 'server'): Promise<void> => {
    const url = `http://${target}:${PORT}${path}`;
    const run = await mesh.exec(client, ['curl', '-sS', '--max-time', '20', url], { ns: 'mesh' });
    assert.equal(run.code, 0, run.stderr);
  };
  const output = (): string[] => {
    const node = mesh.node('node1');
    // Without the last one, which may be only half there.
    return readFileSync(join(node.layout.logDir, 'agent.log'), 'utf8').split('\n').slice(0, -1);
  };
  const lineOf = async (path: string): Promise<string> =>
    until(`a line for ${path}`, 20_000, async () => output().find((line) => line.includes(path)));

  it('says in JSON who asked whom for what, from the other node and from the same', async () => {
    for (const [client, version, host] of [
      ['far', 'HTTP/2.0', `http://server:${PORT}`],
      // In memory, as its client spoke.
      ['near', 'HTTP/1.1', ''],
    ] as const) {
      await ask(client, `/from-${client}?q=1`);
      const { timestamp, total_ns, processing_ns, ...line } = JSON.parse(
        await lineOf(`/from-${client}`),
      ) as Record<string, string>;
      assert.equal(line['component'], 'access');
      assert.equal(line['namespace'], 'mesh');
      assert.equal(line['pod'], 'server');
      assert.equal(line['client.id'], 'default.mesh.serviceaccount.identity.linkerd.cluster.local');
      assert.equal(line['method'], 'GET');
      assert.equal(line['uri'], `${host}/from-${client}?q=1`);
      assert.equal(line['version'], version);
      assert.equal(line['status'], 200);
      assert.match(line['user_agent'] ?? '', /^curl/);
      assert.ok(Math.abs(Date.parse(timestamp ?? '') - Date.now()) < 60_000);
      assert.ok(Number(total_ns) >= Number(processing_ns));
    }
  });
  it('a change of the annotation has its effect at once, also on the form', async () => {
    await mesh.annotate('Pod', 'mesh', 'server', `${LINKERD}=apache`);
    await until('a line of the other form', 20_000, async () => {
      await ask('far', '/other-form');
      return output().find((line) =>
        /^mesh\/server \S+:\d+ default\.mesh\.\S+ - \[\S+\] "GET http:\/\/server:8080\/other-form HTTP\/2\.0" 200$/.test(
          line,
        ),
      );
    });
    await mesh.annotate('Pod', 'mesh', 'server', `${LINKERD}-`);
    const asked: string[] = [];
    await until('no more lines', 30_000, async () => {
      const lines = output();
      // Lines are written within a tenth of a second; the pauses between the questions are longer.
      const unlogged = asked.slice(-3).filter((path) => !lines.some((line) => line.includes(`${path} `)));
      if (unlogged.length === 3) return true;
      asked.push(`/unlogged-${asked.length}`);
      await ask('far', asked.at(-1) ?? '');
      return undefined;
    });
  });
  it('writes nothing of pods that did not ask for it, and loses nothing', async () => {
    await ask('far', '/silence', 'silent');
    // What comes after it is there already.
    await mesh.annotate('Pod', 'mesh', 'server', `${LINKERD}=json`);
    await until('a later line', 20_000, async () => {
      await ask('far', '/later');
      return output().some((line) => line.includes('/later'));
    });
    assert.ok(!output().some((line) => line.includes('/silence')));
    const metrics = await scrape(mesh, 'node1');
    assert.equal(total(metrics, 'nodemesh_access_log_dropped_total', {}), 0);
  });
});
