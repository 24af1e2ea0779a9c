// SPDX-License-Identifier: Apache-2.0
// Annotations that change on running pods: new connections follow at once, requests on kept ones are judged by the
// new policy, a TCP stream that it no longer allows ends, and what is not about policy disturbs nobody.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { assertOnly, echoServer, startLoad } from '../faults/load.ts';
import { until } from '../faults/until.ts';
import { enrolmentStatus, eventCount } from './enrolment-status.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, total } from './scrape.ts';

const program = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));
const HTTP = 8080;
const TCP = 7070;
const IDENTITY = 'default.mesh.serviceaccount.identity.linkerd.cluster.local';
const LINKERD = 'config.linkerd.io/';

interface Kept {
  readonly statuses: readonly (readonly [number, number])[];
  readonly connections: number;
  readonly httpEnded: string;
  readonly echoed: number;
  readonly tcpEnded: string;
}

describe('annotations that change on running pods', () => {
  let mesh: LocalMesh;
  before(async () => {
    const mirror = ['node', program('mirror.ts'), String(HTTP), String(TCP)];
    mesh = await startMesh({
      name: 'li-config',
      objects: [
        namespace('mesh', meshed),
        pod('mesh', 'server', mirror, { node: 'node1', readinessPort: TCP }),
        service('mesh', 'server', HTTP),
        ...echoServer('mesh', 'echo', { node: 'node1' }),
        pod('mesh', 'client', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const annotate = async (name: string, item: string): Promise<void> =>
    mesh.annotate('Pod', 'mesh', name, item);
  const ipOf = async (name: string): Promise<string> => (await mesh.pod(name, 'mesh')).status?.podIP ?? '';
  const ask = async (target = 'server'): Promise<string> => {
    const url = `http://${target}:${HTTP}/x`;
    const run = await mesh.exec('client', ['curl', '-sS', '-i', '--max-time', '20', url], { ns: 'mesh' });
    return run.stdout + run.stderr;
  };
  const untilAnswer = async (what: string, wanted: RegExp, target?: string): Promise<void> => {
    await until(what, 20_000, async () => (wanted.test(await ask(target)) ? true : undefined));
  };
  const withIdentity = new RegExp(`200 OK[\\s\\S]*x-client-id: ${IDENTITY}\r`);
  const without = /200 OK[\s\S]*x-client-id: \r/;

  /** Sets the annotation, waits for what it does, takes it back, waits again. */
  const inForce = async (name: string, item: string, then: () => Promise<void>): Promise<void> => {
    await untilAnswer('at first the client has its identity', withIdentity);
    await annotate(name, item);
    await then();
    await annotate(name, `${item.split('=')[0]}-`);
    await untilAnswer('without the annotation all is as before', withIdentity);
  };

  for (const [name, item] of [
    ['server', `${LINKERD}skip-inbound-ports=${HTTP}`],
    ['client', `${LINKERD}skip-outbound-ports=${HTTP}`],
    ['client', `${LINKERD}skip-subnets=0.0.0.0/0,::/0`],
  ] as const) {
    it(`${item} on the ${name}`, async () =>
      inForce(name, item, async () => untilAnswer('the mesh is left out', without)));
  }

  it('opaque-ports: carried as bytes, still over TLS', async () =>
    inForce('server', `${LINKERD}opaque-ports=${HTTP}`, async () => {
      await untilAnswer('nothing is added to requests', without, await ipOf('server'));
      const opened = async (): Promise<number> =>
        total(await scrape(mesh, 'node1'), 'tcp_open_total', {
          pod: 'server',
          direction: 'inbound',
          peer: 'src',
          tls: 'true',
        });
      const before = await opened();
      assert.match(await ask(await ipOf('server')), without);
      assert.equal((await opened()) - before, 1);
    }));

  it('nodemesh.io/client-address: whose address the server sees', async () => {
    const peer = async (name: string): Promise<RegExp> =>
      new RegExp(`peer=(::ffff:)?${(await ipOf(name)).replaceAll('.', '\\.')}\n`);
    const address = await ipOf('server');
    await untilAnswer("the client's", await peer('client'), address);
    await inForce('server', 'nodemesh.io/client-address=proxy', async () =>
      untilAnswer("the server's own, where the proxy dials from", await peer('server'), address),
    );
    await untilAnswer("the client's again", await peer('client'), address);
  });

  it('proxy-outbound-connect-timeout: how long a connect is waited for', async () => {
    // An address of node1's pod network that nobody has.
    const nobody = (await ipOf('server')).replace(/\.\d+$/, '.250');
    const url = `http://${nobody}:${HTTP}/`;
    const seconds = async (): Promise<number> => {
      const argv = ['curl', '-s', '-o', '/dev/null', '-w', '%{time_total}', '--max-time', '20', url];
      return Number((await mesh.exec('client', argv, { ns: 'mesh' })).stdout);
    };
    const usual = await seconds();
    assert.ok(usual > 0.9, `${usual} s with the default of 1 s`);
    await inForce('client', `${LINKERD}proxy-outbound-connect-timeout=100ms`, async () => {
      await until('a shorter wait', 20_000, async () => ((await seconds()) < 0.7 ? true : undefined));
    });
  });

  const inClient = async (...argv: readonly string[]): Promise<string> => {
    const run = await mesh.exec('client', argv, { ns: 'mesh' });
    return run.code === 0 ? run.stdout : '';
  };
  /** Two connections that are used all the time, until `end`. */
  const keep = async (name: string) => {
    const file = `/run/kept-${name}`;
    const argv = ['node', program('kept.ts'), await ipOf('server'), String(HTTP), String(TCP), file];
    const run = mesh.exec('client', argv, { ns: 'mesh', timeoutMs: 200_000 });
    const soFar = async (): Promise<Kept | undefined> => {
      const text = await inClient('cat', file);
      return text === '' ? undefined : (JSON.parse(text) as Kept);
    };
    const answers = (kept: Kept | undefined): number =>
      (kept?.statuses ?? []).reduce((sum, [, count]) => sum + count, 0);
    return {
      /** Until so many requests were answered from now on, the last of them with this status. */
      async untilStatus(wanted: number, times: number): Promise<void> {
        const before = answers(await soFar());
        await until(`${times} answers ${wanted} on the kept connection`, 30_000, async () => {
          const now = await soFar();
          return now?.statuses.at(-1)?.[0] === wanted && answers(now) >= before + times;
        });
      },
      async untilEchoed(times: number): Promise<void> {
        await until(
          `${times} echoes on the stream`,
          30_000,
          async () => ((await soFar())?.echoed ?? 0) >= times,
        );
      },
      async end(): Promise<Kept> {
        await inClient('touch', `${file}.stop`);
        const { code, stdout, stderr } = await run;
        assert.equal(code, 0, stderr);
        return JSON.parse(stdout) as Kept;
      },
    };
  };
  /** What an unmeshed client is answered. */
  const outside = async (): Promise<string> => {
    const url = `http://${await ipOf('server')}:${HTTP}/x`;
    const argv = ['curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '20', url];
    return (await mesh.node('node2').exec(argv)).stdout;
  };

  for (const policy of ['deny', 'all-authenticated'] as const) {
    it(`default-inbound-policy=${policy}: kept connections follow`, async () => {
      const terminated = async (): Promise<number> =>
        total(await scrape(mesh, 'node1'), 'inbound_tcp_authz_terminate_total', { pod: 'server' });
      const before = await terminated();
      const kept = await keep(policy);
      await kept.untilStatus(200, 5);
      await kept.untilEchoed(5);
      await annotate('server', `${LINKERD}default-inbound-policy=${policy}`);
      await until('the policy holds', 30_000, async () => (await outside()) === '403');
      await kept.untilStatus(policy === 'deny' ? 403 : 200, 5);
      await annotate('server', `${LINKERD}default-inbound-policy-`);
      await until('the policy is as before', 30_000, async () => (await outside()) === '200');
      await kept.untilStatus(200, 5);
      const seen = await kept.end();
      assert.equal(seen.httpEnded, '');
      assert.equal(seen.connections, 1, 'one HTTP connection all the time');
      assert.ok(seen.echoed >= 5);
      const codes = seen.statuses.map(([status]) => status);
      if (policy === 'deny') {
        assert.deepEqual(codes, [200, 403, 200]);
        assert.equal(seen.tcpEnded, 'ECONNRESET');
        assert.equal((await terminated()) - before, 1);
      } else {
        // A meshed client is allowed before and after.
        assert.deepEqual(codes, [200]);
        assert.equal(seen.tcpEnded, '');
        assert.equal((await terminated()) - before, 0);
      }
    });
  }

  it('what is not about policy fails no request, on new and on kept connections', async () => {
    const load = await startLoad(mesh, {
      from: { ns: 'mesh', pod: 'client' },
      to: 'echo',
      rate: 60,
      streams: 2,
    });
    const changes = [
      ['echo', 'skip-inbound-ports=8080'],
      ['echo', 'skip-inbound-ports=7070,8080'],
      ['echo', 'skip-inbound-ports-'],
      ['client', 'skip-outbound-ports=8080'],
      ['client', 'skip-outbound-ports-'],
      ['client', 'skip-subnets=0.0.0.0/0'],
      ['client', 'skip-subnets-'],
      ['echo', 'opaque-ports=7070,8080'],
      ['echo', 'opaque-ports=7070'],
      ['echo', 'proxy-inbound-connect-timeout=500ms'],
      ['client', 'proxy-outbound-connect-timeout=5s'],
    ] as const;
    for (const [name, item] of changes) {
      load.mark(`${name} ${item}`);
      await annotate(name, `${LINKERD}${item}`);
      await sleep(500);
    }
    assertOnly(await load.stop(), { minRate: 50 });
    const status = await enrolmentStatus(mesh, 'echo', 'mesh');
    assert.equal(status.condition?.reason, 'Enrolled');
    assert.equal(eventCount(status, 'MeshEnrolled'), 1, 'a new configuration is no new enrolment');
  });
});
