// SPDX-License-Identifier: Apache-2.0
// Peers that are gone leave the metrics: of every family that names one, on both sides, within some ten minutes; what
// is in use stays as it is. Time passes as it does, less the pauses of this process, and now and then a quarter of an
// hour at once.

import { strict as assert } from 'node:assert';
import { Agent } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { VirtualClock } from '#lib/core/clock.ts';
import { endpoint, identityOf, meshedOnly, type TestWorker, untilMetric } from './harness.ts';
import { fetch2, type Http2Application, http2To, serveHttp2 } from './http2-peers.ts';
import {
  ask,
  CLIENT,
  createScene,
  dial,
  get,
  HTTP2_PORT,
  HTTP_PORT,
  readAll,
  readSome,
  type Scene,
  SERVER,
  services,
  TCP_PORT,
} from './scene.ts';

const QUARTER_S = 15 * 60;
const TICK_MS = 5;
/** What counts of the time between two ticks, so that nothing times out that was only given no turn. */
const STEP_MAX_MS = 10;
const CLIENT_ID = /client_id="web\./;

/** Which families have a series of which the pattern speaks. */
const familiesOf = async (worker: TestWorker, pattern: RegExp): Promise<string[]> => {
  const lines = (await worker.metrics()).split('\n').filter((line) => pattern.test(line));
  const names = lines.map((line) => line.split('{')[0]?.replace(/_(bucket|sum|count)$/, '') ?? '');
  return [...new Set(names)].sort();
};

/** Of requests and of transport, which both tests leave. */
const COMMON_FAMILIES = [
  'request_total',
  'response_latency_ms',
  'response_total',
  'tcp_close_total',
  'tcp_open_connections',
  'tcp_open_total',
  'tcp_read_bytes_total',
  'tcp_write_bytes_total',
];

const assertNamed = async (
  worker: TestWorker,
  pattern: RegExp,
  families: readonly string[],
): Promise<void> => {
  const named = await familiesOf(worker, pattern);
  for (const family of families) {
    assert.ok(named.includes(family), `${family} is not among ${named.join()}`);
  }
};

export function describeVanished(title: string, sameNode?: 'memory'): void {
  describe(title, () => {
    const clock = new VirtualClock(Date.now());
    let scene: Scene;
    let application: Http2Application;
    let lastMs = performance.now();
    const ticks = setInterval(() => {
      const nowMs = performance.now();
      clock.advance(Math.min(nowMs - lastMs, STEP_MAX_MS));
      lastMs = nowMs;
    }, TICK_MS);
    const kept = new Agent({ keepAlive: true, maxSockets: 1 });

    before(async () => {
      scene = await createScene({ clock, failfastMs: 200, ...(sameNode === undefined ? {} : { sameNode }) });
      application = await serveHttp2(scene.serverNs, SERVER, HTTP2_PORT, (stream) => {
        stream.respond({ ':status': 200 });
        stream.end('ok');
      });
    });
    after(async () => {
      kept.destroy();
      await scene.close();
      application.close();
      clearInterval(ticks);
    });

    /** Second by second, and what has to be said meanwhile is said. */
    const aQuarterPasses = async (): Promise<void> => {
      for (let second = 0; second < QUARTER_S; second++) {
        clock.advance(1_000);
        for (let turns = 0; turns < 4; turns++) await turn();
      }
    };
    const leadTo = (deployment: string): void => {
      const meshed = {
        identity: identityOf('api'),
        inboundPort: 4143,
        http2: true,
        labels: { deployment },
        localPodUid: sameNode === undefined ? undefined : scene.serverPod.uid,
      };
      scene.lead('http', [endpoint(SERVER, HTTP_PORT, meshed)]);
      scene.lead('http2', [endpoint(SERVER, HTTP2_PORT, meshed)]);
      scene.lead('tcp', [endpoint(SERVER, TCP_PORT, meshed)], true);
      scene.lead('peer', [endpoint(SERVER, 1234, meshed)]);
    };
    const useTcp = async (): Promise<void> => {
      const client = await dial('tcp');
      client.write('PING');
      const server = await scene.nextAccepted();
      assert.equal(await readSome(server), 'PING');
      client.end();
      server.end();
      await readAll(client);
    };
    /** Of each protocol, and what is denied, refused, or has nobody to go to. */
    const useAll = async (): Promise<void> => {
      assert.equal((await get('http', '/')).status, 200);
      const session = http2To('http2');
      assert.equal((await fetch2(session, { ':path': '/' })).headers[':status'], 200);
      session.destroy();
      await useTcp();
      assert.equal((await get('peer', '/')).status, 502);
      assert.equal((await get('empty', '/')).status, 504);
      const identities = [identityOf('other')];
      scene.setPolicy({
        authorizations: [{ ...meshedOnly, authentication: { kind: 'tls', identities, suffixes: [] } }],
      });
      assert.equal((await get('http', '/')).status, 403);
      const denied = await dial('tcp');
      denied.write('PING');
      await readAll(denied);
      denied.destroy();
      scene.setPolicy({});
    };
    const askKept = async (): Promise<void> => {
      const { listener } = services.http;
      assert.equal((await ask({ host: CLIENT, port: listener, path: '/kept', agent: kept })).status, 200);
    };

    test('endpoints that are gone', async () => {
      leadTo('gone');
      await useAll();
      const gone = /dst_deployment="gone"/;
      await untilMetric(scene.client, /tcp_close_total\{[^}]*dst_deployment="gone"/);
      await assertNamed(scene.client, gone, COMMON_FAMILIES);
      leadTo('stays');
      await askKept();
      await aQuarterPasses();
      assert.deepEqual(await familiesOf(scene.client, gone), []);
      assert.deepEqual(await familiesOf(scene.client, /tcp\.shop\.svc|parent_name="(tcp|peer)"/), []);
      // What the kept connection is for.
      await untilMetric(
        scene.client,
        /request_total\{direction="outbound",[^}]*dst_deployment="stays"[^}]*\} 1/,
      );
      await askKept();
      await untilMetric(
        scene.client,
        /request_total\{direction="outbound",[^}]*dst_deployment="stays"[^}]*\} 2/,
      );
    });

    test('clients that are gone', async () => {
      await useAll();
      await untilMetric(scene.server, /tcp_close_total\{[^}]*client_id="web\./);
      await assertNamed(scene.server, CLIENT_ID, [
        'inbound_http_authz_allow_total',
        'inbound_http_authz_deny_total',
        'inbound_tcp_authz_allow_total',
        'inbound_tcp_authz_deny_total',
        'inbound_tcp_transport_header_connections_total',
        ...COMMON_FAMILIES,
      ]);
      scene.client.worker.handle({ type: 'pod-removed', uid: scene.clientPod.uid, ticket: 1 });
      await aQuarterPasses();
      assert.deepEqual(await familiesOf(scene.server, CLIENT_ID), []);
      assert.deepEqual(await familiesOf(scene.client, /pod="web-0"/), []);
      assert.deepEqual(await familiesOf(scene.server, /process_start_time_seconds\{.*pod="api-0"/), [
        'process_start_time_seconds',
      ]);
    });
  });
}
