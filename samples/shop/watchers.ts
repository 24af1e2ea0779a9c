// SPDX-License-Identifier: Apache-2.0
// Customers who watch: some WebSockets to the live orders that are kept, some that come and go, and gRPC streams of
// trends. Every message is checked: orders come in order, what was said is heard, and all of it carries the marker.

import { setTimeout as pause } from 'node:timers/promises';
import type { Recommendations } from './recommendation-client.ts';
import { say } from './service.ts';

const SAY_MS = 1000;
const VISIT_MS = 5000;
const AGAIN_MS = 500;
const TRENDS = 20;

export interface WatchTotals {
  orders: number;
  echoes: number;
  trends: number;
  /** Ends and answers that should not have been. */
  broken: number;
}

export interface WatchOptions {
  readonly ordersUrl: string;
  readonly recommendations: Recommendations;
  readonly marker: string;
  /** WebSockets that stay, WebSockets that come and go, streams of trends. */
  readonly kept: number;
  readonly visits: number;
  readonly streams: number;
  readonly stop: AbortSignal;
}

/** Watches until `stop`. */
export function startWatching(options: WatchOptions): WatchTotals {
  const totals: WatchTotals = { orders: 0, echoes: 0, trends: 0, broken: 0 };
  const again = async (what: string, turn: () => Promise<void>): Promise<void> => {
    while (!options.stop.aborted) {
      try {
        await turn();
      } catch (error) {
        if (options.stop.aborted) return;
        totals.broken++;
        say({ client: 'traffic', watching: what, error: String(error) });
      }
      await pause(AGAIN_MS);
    }
  };
  for (let index = 0; index < options.kept + options.visits; index++) {
    const limitMs = index < options.kept ? undefined : VISIT_MS;
    void again('orders', () => watchOrders(options, totals, limitMs));
  }
  for (let index = 0; index < options.streams; index++) {
    void again('trends', async () => {
      totals.trends += (await options.recommendations.watchTrends(TRENDS, options.marker)).length;
    });
  }
  return totals;
}

/** One WebSocket, to its end; fails unless this side ended it and every message was as it should be. */
export async function watchOrders(
  { ordersUrl, marker, stop }: Pick<WatchOptions, 'ordersUrl' | 'marker' | 'stop'>,
  totals: Pick<WatchTotals, 'orders' | 'echoes'>,
  limitMs?: number,
): Promise<void> {
  const socket = new WebSocket(`${ordersUrl.replace(/^http/, 'ws')}/live?marker=${marker}`);
  const ended = Promise.withResolvers<void>();
  let last: number | undefined;
  let said = 0;
  let heard = 0;
  const leave = (): void => {
    if (heard < said - 1) ended.reject(new Error(`${said} things were said, ${heard} heard`));
    else ended.resolve();
  };
  const speak = setInterval(() => {
    if (socket.readyState === WebSocket.OPEN) socket.send(`${marker} ${++said}`);
  }, SAY_MS);
  const limit = limitMs === undefined ? undefined : setTimeout(leave, limitMs);
  stop.addEventListener('abort', leave);
  socket.addEventListener('error', () => ended.reject(new Error('the WebSocket broke')));
  socket.addEventListener('close', ({ code }) =>
    ended.reject(new Error(`the WebSocket was closed with ${code}`)),
  );
  socket.addEventListener('message', ({ data }) => {
    const message = JSON.parse(String(data)) as { number?: number; marker?: string; heard?: string };
    if (message.heard !== undefined) {
      totals.echoes++;
      if (message.heard !== `${marker} ${++heard}`) ended.reject(new Error(`heard "${message.heard}"`));
      return;
    }
    totals.orders++;
    if (last !== undefined && message.number !== last + 1)
      ended.reject(new Error(`order ${message.number} after ${last}`));
    if (message.marker !== marker) ended.reject(new Error('an order without the marker'));
    last = message.number;
  });
  try {
    await ended.promise;
  } finally {
    clearInterval(speak);
    clearTimeout(limit);
    stop.removeEventListener('abort', leave);
    socket.close();
  }
}
