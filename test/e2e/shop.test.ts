// SPDX-License-Identifier: Apache-2.0
// The sample shop in a local mesh, as `make demo` runs it: gRPC and WebSockets are measured as what they are, what the
// load checks of them is in order, and the page of live orders can be looked at.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import type { WatchTotals } from '../../samples/shop/watchers.ts';
import { until } from '../faults/until.ts';
import { scrape, type Series, total } from './scrape.ts';

const manifest = join(import.meta.dirname, '../../samples/shop/shop.yaml');
const READY_MS = 180_000;
const SEEN_MS = 60_000;

/** Prints two orders as they come, and what is said as it is heard. */
const WATCH = `
const socket = new WebSocket('ws://orders/live');
const got = { heard: '', orders: [] };
socket.onopen = () => socket.send('hello');
socket.onmessage = ({ data }) => {
  const { heard, number } = JSON.parse(data);
  if (heard !== undefined) got.heard = heard;
  else got.orders.push(number);
  if (got.heard === '' || got.orders.length < 2) return;
  console.log(JSON.stringify(got));
  process.exit();
};
socket.onclose = ({ code }) => { throw new Error('closed with ' + code); };
`;

describe('the sample shop', () => {
  let mesh: LocalMesh;
  before(async () => {
    mesh = await startMesh({ name: 'f-shop', nodes: 2, readyMs: READY_MS });
    await mesh.apply(readFileSync(manifest, 'utf8'));
    await mesh.waitReady(READY_MS);
  });
  after(async () => mesh?.down());

  const series = async (): Promise<readonly Series[]> =>
    (await Promise.all(['node1', 'node2'].map(async (node) => scrape(mesh, node)))).flat();
  const seen = async (what: string, labels: Record<string, string>): Promise<void> => {
    await until(what, SEEN_MS, async () => total(await series(), 'response_total', labels) > 0);
  };
  const podOf = async (app: string): Promise<string> =>
    (await mesh.pods('shop')).find((pod) => pod.metadata.labels['app'] === app)?.metadata.name ??
    assert.fail(`no pod of ${app}`);

  it('recommendations are judged by their grpc-status, at both ends, single ones and streams', async () => {
    const server = { direction: 'inbound', deployment: 'recommendation', tls: 'true', status_code: '200' };
    const client = { direction: 'outbound', dst_deployment: 'recommendation', status_code: '200' };
    const failed = { classification: 'failure', grpc_status: '13' };
    const well = { classification: 'success', grpc_status: '0' };
    await seen('a failure at the server', { ...server, ...failed });
    await seen('a failure at web', { ...client, ...failed, deployment: 'web' });
    await seen('a success at the server', { ...server, ...well });
    await seen('the end of a stream at the load', { ...client, ...well, deployment: 'traffic' });
  });

  it('WebSockets are requests answered with 101, and then connections that stay', async () => {
    await seen('an upgrade', { direction: 'inbound', deployment: 'orders', tls: 'true', status_code: '101' });
    await until('connections that stay', SEEN_MS, async () => {
      const open = { direction: 'inbound', peer: 'src', deployment: 'orders', tls: 'true' };
      return total(await series(), 'tcp_open_connections', open) >= 4;
    });
  });

  it('the page of live orders is there, and its WebSocket brings them', async () => {
    const web = await podOf('web');
    const page = await mesh.exec(web, ['curl', '-s', '-f', 'http://orders/'], { ns: 'shop' });
    assert.match(page.stdout, /<title>Live orders<\/title>/);
    const watched = await mesh.exec(web, ['node', '-e', WATCH], { ns: 'shop', timeoutMs: SEEN_MS });
    assert.equal(watched.code, 0, watched.stderr);
    const { heard, orders } = JSON.parse(watched.stdout) as { heard: string; orders: number[] };
    assert.equal(heard, 'hello');
    assert.equal(orders[1], (orders[0] ?? 0) + 1);
  });

  it('the load has found nothing wrong with any message', async () => {
    const traffic = await podOf('traffic');
    const report = await until('a report of the load with everything in it', SEEN_MS, async () => {
      const lines = (await mesh.logs(traffic, { ns: 'shop' }))
        .split('\n')
        .filter((line) => line.includes('"watching":{'));
      const { watching } = JSON.parse(lines.at(-1) ?? '{}') as { watching?: WatchTotals };
      const { orders = 0, echoes = 0, trends = 0 } = watching ?? {};
      return orders > 0 && echoes > 0 && trends > 0 ? watching : undefined;
    });
    assert.equal(report.broken, 0, await mesh.logs(traffic, { ns: 'shop' }));
  });
});
