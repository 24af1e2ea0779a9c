// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseH2load, parseIperf3, parseOpenLoop, parseWrk } from './load.ts';

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

test('wrk: a clean report', () => {
  assert.deepEqual(parseWrk(report), {
    units: 62368,
    failures: 0,
    perSecond: 56699.43,
    p50Ms: 0.543,
    p99Ms: 1.02,
    p999Ms: Number.NaN,
  });
});

test('wrk: errors are counted', () => {
  const bad = report.replace(
    'Requests/sec',
    '  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 10\nRequests/sec',
  );
  assert.equal(parseWrk(bad).failures, 17);
});

test('wrk: anything else is an error that shows what it said', () => {
  assert.throws(() => parseWrk('unable to connect to 127.0.0.1:1'), /unable to connect/);
});

const h2report = `starting benchmark...
spawning thread #0: 8 total client(s). Timing-based test with 0s of warm-up time and 1s of main duration for measurements.
Warm-up started for thread #0.
Application protocol: h2c

finished in 1.00s, 7104.00 req/s, 520.55KB/s
requests: 7104 total, 7232 started, 7104 done, 7104 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 7104 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 520.55KB (533049) total, 180.38KB (184704) headers (space savings 63.89%), 34.69KB (35520) data
`;

test('h2load: what is still open at the end is no failure', () => {
  const { units, failures, perSecond } = parseH2load(h2report);
  assert.deepEqual({ units, failures, perSecond }, { units: 7104, failures: 0, perSecond: 7104 });
});

test('h2load: what did not succeed is', () => {
  const bad = h2report.replace('7104 succeeded, 0 failed', '7000 succeeded, 104 failed');
  assert.equal(parseH2load(bad).failures, 104);
  assert.throws(() => parseH2load('Could not resolve'), /Could not resolve/);
});

test('iperf3 counts what was received', () => {
  const report = { end: { sum_received: { bytes: 3 * 1024 * 1024, seconds: 1.5 } } };
  const { units, perSecond } = parseIperf3(JSON.stringify(report));
  assert.deepEqual({ units, perSecond }, { units: 3, perSecond: 2 });
  assert.throws(() => parseIperf3('{"error": "the server is busy"}'), /the server is busy/);
});

test('open-loop gives every latency', () => {
  const latencies = Array.from({ length: 1000 }, (_, index) => index + 1);
  const text = `1000 answered, 2 failed, 4.000 s\n${latencies.join(' ')} \n`;
  assert.deepEqual(parseOpenLoop(text), {
    units: 1000,
    failures: 2,
    perSecond: 250,
    p50Ms: 0.5,
    p99Ms: 0.99,
    p999Ms: 0.999,
  });
  assert.throws(() => parseOpenLoop('open-loop: connect: Connection refused'), /refused/);
});
