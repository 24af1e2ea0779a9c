// SPDX-License-Identifier: Apache-2.0
// Real programs that know nothing of the mesh, meshed and not, on both nodes.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service, serviceAccount } from './objects.ts';
import { scrape, total } from './scrape.ts';

const NGINX_PORT = 8080;
const REDIS_PORT = 6379;
const IPERF_PORT = 5201;

const nginx = [
  'sh',
  '-c',
  `mkdir -p /run/nginx && cd /run/nginx && printf '%s' "
    daemon off; pid /run/nginx/pid; error_log stderr; worker_processes 1;
    events {}
    http {
      access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
      server { listen ${NGINX_PORT}; listen [::]:${NGINX_PORT};
        location = /hello { return 200 'peer=\\$remote_addr id=\\$http_l5d_client_id\\n'; }
        location = /fail { return 503; }
      }
    }" > conf && exec nginx -p /run/nginx -c conf`,
];

describe('real programs', () => {
  let mesh: LocalMesh;

  before(async () => {
    mesh = await startMesh({
      name: 'e2e-apps',
      objects: [
        namespace('mesh', meshed),
        namespace('plain'),
        serviceAccount('mesh', 'web'),
        serviceAccount('mesh', 'caller'),
        pod('mesh', 'web', nginx, { node: 'node1', account: 'web', readinessPort: NGINX_PORT }),
        service('mesh', 'web', 80, { targetPort: NGINX_PORT }),
        pod(
          'mesh',
          'redis',
          [
            'redis-server',
            '--port',
            String(REDIS_PORT),
            '--bind',
            '0.0.0.0',
            '::',
            '--protected-mode',
            'no',
            '--save',
            '',
          ],
          {
            node: 'node1',
            readinessPort: REDIS_PORT,
          },
        ),
        service('mesh', 'redis', REDIS_PORT),
        pod('mesh', 'iperf', ['iperf3', '-s'], { node: 'node1', readinessPort: IPERF_PORT }),
        service('mesh', 'iperf', IPERF_PORT),
        pod('plain', 'web', nginx, { node: 'node1', readinessPort: NGINX_PORT }),
        service('plain', 'web', 80, { targetPort: NGINX_PORT }),
        pod('mesh', 'far', [], { node: 'node2', account: 'caller' }),
        pod('mesh', 'near', [], { node: 'node1', account: 'caller' }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const curl = async (from: string, ns: string, url: string) =>
    mesh.exec(from, ['curl', '-sS', '--max-time', '20', '-w', '%{http_code}', url], { ns });
  const identity = (account: string) => `${account}.mesh.serviceaccount.identity.linkerd.cluster.local`;

  for (const client of ['far', 'near']) {
    for (const family of ['-4', '-6']) {
      it(`curl ${family} from ${client} reaches nginx, which sees the client's address and identity`, async () => {
        const run = await mesh.exec(
          client,
          ['curl', family, '-sS', '--max-time', '20', 'http://web/hello', 'http://web/hello'],
          { ns: 'mesh' },
        );
        const { status } = await mesh.pod(client, 'mesh');
        const ip = status?.podIPs
          ?.map((one) => one.ip)
          .find((one) => one.includes(':') === (family === '-6'));
        const line = `peer=${ip} id=${identity('caller')}\n`;
        assert.equal(run.stdout, line + line, run.stderr);
      });
    }

    it(`redis-cli from ${client} speaks with redis`, async () => {
      const cli = ['redis-cli', '-h', 'redis'];
      assert.equal(
        (await mesh.exec(client, [...cli, 'SET', client, 'value'], { ns: 'mesh' })).stdout,
        'OK\n',
      );
      assert.equal((await mesh.exec(client, [...cli, 'GET', client], { ns: 'mesh' })).stdout, 'value\n');
    });

    it(`iperf3 from ${client} sends and receives in bulk`, async () => {
      for (const direction of [[], ['-R']]) {
        const run = await mesh.exec(client, ['iperf3', '-c', 'iperf', '-J', '-n', '64M', ...direction], {
          ns: 'mesh',
        });
        const report = JSON.parse(run.stdout) as {
          end?: { sum_received?: { bytes: number } };
          error?: string;
        };
        assert.equal(report.error, undefined);
        // The sender stops when it has written everything; what is on the way then is not counted.
        assert.ok(
          (report.end?.sum_received?.bytes ?? 0) >= 32_000_000,
          JSON.stringify(report.end?.sum_received),
        );
      }
    });
  }

  it('counts what it carried, with both identities, and marks the same node', async () => {
    const before = [await scrape(mesh, 'node1'), await scrape(mesh, 'node2')];
    for (const client of ['far', 'near']) {
      for (let count = 0; count < 10; count++) await curl(client, 'mesh', 'http://web/hello');
      for (let count = 0; count < 3; count++) await curl(client, 'mesh', 'http://web/fail');
    }
    let [node1, node2] = before;
    const grown = (index: 0 | 1, family: string, labels: Readonly<Record<string, string>>): number =>
      total((index === 0 ? node1 : node2) ?? [], family, labels) - total(before[index] ?? [], family, labels);
    const inbound = {
      direction: 'inbound',
      namespace: 'mesh',
      pod: 'web',
      tls: 'true',
      client_id: identity('caller'),
    };
    const outbound = {
      direction: 'outbound',
      namespace: 'mesh',
      dst_service: 'web',
      tls: 'true',
      server_id: identity('web'),
    };
    // Clients have their answers before the last of them is counted.
    await until('all is counted', 20_000, async () => {
      [node1, node2] = [await scrape(mesh, 'node1'), await scrape(mesh, 'node2')];
      return (
        grown(0, 'response_total', inbound) >= 26 &&
        grown(0, 'response_latency_ms_count', { direction: 'inbound', pod: 'web' }) >= 26 &&
        grown(1, 'response_total', { ...outbound, pod: 'far' }) >= 13 &&
        grown(0, 'response_total', { ...outbound, pod: 'near' }) >= 13
      );
    });
    assert.equal(grown(0, 'response_total', { ...inbound, classification: 'success' }), 20);
    assert.equal(
      grown(0, 'response_total', { ...inbound, classification: 'failure', status_code: '503' }),
      6,
    );
    assert.equal(grown(0, 'response_total', { ...inbound, same_node: 'true' }), 13);
    assert.equal(grown(1, 'response_total', { ...outbound, pod: 'far' }), 13);
    assert.equal(grown(0, 'response_total', { ...outbound, pod: 'near', same_node: 'true' }), 13);
    assert.equal(grown(0, 'response_latency_ms_count', { direction: 'inbound', pod: 'web' }), 26);
  });

  for (const [client, node] of [
    ['far', 'node2'],
    ['near', 'node1'],
  ] as const) {
    it(`C-362 a connection from ${client} to a pod’s own address is an edge with both ends`, async () => {
      const { status } = await mesh.pod('redis', 'mesh');
      const list = `list of ${client}`;
      const direct = ['redis-cli', '-h', status?.podIP ?? ''];
      const edge = {
        direction: 'outbound',
        namespace: 'mesh',
        pod: client,
        dst_namespace: 'mesh',
        dst_pod: 'redis',
        server_id: identity('default'),
      };
      const open = async (labels: Readonly<Record<string, string>>, at: string): Promise<number> =>
        total(await scrape(mesh, at), 'tcp_open_connections', labels);
      const waiting = mesh.exec(client, [...direct, 'BLPOP', list, '60'], { ns: 'mesh' });
      try {
        await until('the edge', 30_000, async () => (await open(edge, node)) > 0);
        const other = { direction: 'inbound', pod: 'redis', client_id: identity('caller') };
        // The client's agent has finished the handshake before the server's has.
        await until('the other end', 30_000, async () => (await open(other, 'node1')) > 0);
        assert.equal((await open({ ...edge, same_node: 'true' }, node)) > 0, client === 'near');
      } finally {
        await mesh.exec(client, [...direct, 'RPUSH', list, 'done'], { ns: 'mesh' });
      }
      assert.equal((await waiting).stdout, `${list}\ndone\n`);
      // Closed: no edge any more.
      await until('its end', 30_000, async () => (await open(edge, node)) === 0);
    });
  }

  it('a meshed client reaches a server without a mesh', async () => {
    const run = await curl('far', 'mesh', 'http://web.plain/hello');
    assert.match(run.stdout, /^peer=\S+ id=\n200$/);
  });

  it('a client without a mesh reaches a meshed server, which sees no identity', async () => {
    const run = await mesh.exec(
      'outsider',
      ['curl', '-sS', '--max-time', '20', '-H', 'l5d-client-id: forged', 'http://web.mesh/hello'],
      { ns: 'plain' },
    );
    const { status } = await mesh.pod('outsider', 'plain');
    const answers = status?.podIPs?.map(({ ip }) => `peer=${ip} id=\n`) ?? [];
    assert.ok(answers.includes(run.stdout), run.stdout + run.stderr);
  });

  it("answers for a pod on 4191: alive, ready, this pod's metrics", async () => {
    const { status } = await mesh.pod('web', 'mesh');
    const at = async (path: string): Promise<string> =>
      (
        await mesh
          .node('node2')
          .exec(['curl', '-sS', '--max-time', '10', `http://${status?.podIP}:4191${path}`])
      ).stdout;
    assert.match(await at('/live'), /live/);
    assert.match(await at('/ready'), /ready/);
    const text = await at('/metrics');
    assert.match(text, /pod="web"/);
    assert.doesNotMatch(text, /pod="near"/);
    const ends = /^control_identity_cert_expiration_timestamp_seconds\{[^}]*pod="web"[^}]*\} (\S+)$/m.exec(
      text,
    )?.[1];
    assert.ok(Number(ends) > Date.now() / 1000, 'its certificate is in force');
  });

  it("counts the agent's own calls to the control plane", async () => {
    const series = await scrape(mesh, 'node2');
    for (const server_id of [
      'linkerd-identity.nodemesh.serviceaccount.identity.linkerd.cluster.local',
      'linkerd-destination.nodemesh.serviceaccount.identity.linkerd.cluster.local',
    ]) {
      const own = { tls: 'true', server_id, node: 'node2' };
      assert.ok(total(series, 'control_request_total', own) > 0, server_id);
      assert.ok(total(series, 'control_response_latency_ms_count', own) > 0, server_id);
    }
  });
});
