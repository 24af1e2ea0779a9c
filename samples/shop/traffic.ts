// SPDX-License-Identifier: Apache-2.0
// Customers: an open loop of RATE requests per second in bursts of BURST, whatever the answers, with totals every
// ten seconds. Bursts, so that there is something to balance. Beside them some who watch (watchers.ts).

import { setTimeout as pause } from 'node:timers/promises';
import { Recommendations } from './recommendation-client.ts';
import { ask, say } from './service.ts';
import { startWatching } from './watchers.ts';

const web = process.env['WEB_URL'] ?? 'http://web';
const marker = process.env['SHOP_MARKER'] ?? 'shop-marker-unset';
const rate = Number(process.env['RATE'] ?? '30');
const burst = Number(process.env['BURST'] ?? '6');
const IN_FLIGHT_MAX = 200;
const REPORT_MS = 10_000;

const totals = { sent: 0, ok: 0, failed: 0, broken: 0, skipped: 0 };
let inFlight = 0;
const stop = new AbortController();

/** Ten requests of a customer's day: four pages, three products, two things put into the cart, one checkout. */
function next(count: number): readonly [method: string, path: string, body?: object] {
  const user = `user${Math.floor(count / 10) % 50}`;
  const step = count % 10;
  if (step < 4) return ['GET', '/'];
  if (step < 7) return ['GET', `/products/${1 + (count % 8)}`];
  if (step < 9) return ['POST', `/cart/${user}`, { product: 1 + (count % 8) }];
  return ['POST', `/checkout/${user}`, {}];
}

async function once(count: number): Promise<void> {
  const [method, path, body] = next(count);
  inFlight++;
  totals.sent++;
  try {
    const answer = await ask(web, method, path, marker, body);
    if (answer.status < 500) totals.ok++;
    else totals.failed++;
    if (!answer.body.includes(marker)) say({ client: 'traffic', path, missing: 'the marker in the answer' });
  } catch (error) {
    totals.broken++;
    say({ client: 'traffic', path, error: String(error) });
  }
  inFlight--;
}

process.once('SIGTERM', () => stop.abort());
const watching = startWatching({
  ordersUrl: process.env['ORDERS_URL'] ?? 'http://orders',
  recommendations: new Recommendations(process.env['RECOMMENDATION_ADDRESS'] ?? 'recommendation:80'),
  marker,
  kept: 4,
  visits: 4,
  streams: 2,
  stop: stop.signal,
});
const report = setInterval(() => say({ client: 'traffic', ...totals, inFlight, watching }), REPORT_MS);
const started = performance.now();
say({ client: 'traffic', web, rate, burst });
for (let count = 0; !stop.signal.aborted; count += burst) {
  for (let index = count; index < count + burst; index++) {
    if (inFlight >= IN_FLIGHT_MAX) totals.skipped++;
    else void once(index);
  }
  await pause(Math.max(0, started + ((count + burst) * 1000) / rate - performance.now()));
}
clearInterval(report);
say({ client: 'traffic', ...totals, watching, stopping: true });
process.exit(0);
