// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseWrk } from './load.ts';

const report = `Running 1s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   560.21us  101.00us   3.31ms   91.23%
    Req/Sec    57.01k     2.20k   59.55k    90.91%
  Latency Distribution
     50%  543.00us
     75%  569.00us
     90%  610.00us
     99%    1.02ms
  62368 requests in 1.10s, 8.86MB read
Requests/sec:  56699.43
Transfer/sec:      8.06MB
`;

test('a clean report', () => {
  assert.deepEqual(parseWrk(report), {
    requests: 62368,
    failures: 0,
    requestsPerSecond: 56699.43,
    p50Ms: 0.543,
    p99Ms: 1.02,
  });
});

test('errors are counted', () => {
  const bad = report.replace(
    'Requests/sec',
    '  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 10\nRequests/sec',
  );
  assert.equal(parseWrk(bad).failures, 17);
});

test('anything else is an error that shows what wrk said', () => {
  assert.throws(() => parseWrk('unable to connect to 127.0.0.1:1'), /unable to connect/);
});
