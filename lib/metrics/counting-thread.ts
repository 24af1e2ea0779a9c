// SPDX-License-Identifier: Apache-2.0
// For the test of metrics: a thread that counts.

import { parentPort } from 'node:worker_threads';
import { systemClock } from '#lib/core/clock.ts';
import { MetricStore } from './store.ts';

const store = new MetricStore({
  id: 'thread',
  families: [{ name: 'requests_total', type: 'counter', help: 'Requests.' }],
  send: (definition) => parentPort?.postMessage(definition),
  clock: systemClock,
});
const cell = store.cell('requests_total', 'thread="1"', '');
for (let count = 0; count < 1000; count++) cell.add(1);
parentPort?.postMessage('done');
