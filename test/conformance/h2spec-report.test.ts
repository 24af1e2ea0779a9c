// SPDX-License-Identifier: Apache-2.0
// That a failure which h2spec finds is not lost on the way: node's server has some, and passes most.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { parseReport, runH2spec } from './h2spec.ts';

test('passed, skipped and failed cases are told apart', () => {
  const report =
    '<testsuite><testcase package="a/1" classname="x &lt;y&gt; &#34;z&#34;" time="1"></testcase>' +
    '<testcase package="a/2" classname="s"><skipped></skipped></testcase>\n' +
    '<testcase package="a/3" classname="f">\n<error>GOAWAY\nTimeout</error>\n</testcase></testsuite>';
  assert.deepEqual(parseReport(report), [
    { section: 'a/1', title: 'x <y> "z"', outcome: 'passed', detail: '' },
    { section: 'a/2', title: 's', outcome: 'skipped', detail: '' },
    { section: 'a/3', title: 'f', outcome: 'failed', detail: 'GOAWAY\nTimeout' },
  ]);
});

test('h2spec runs, and its report is read', async () => {
  const server = http2.createServer((_request, response) => response.end('hello'));
  server.on('sessionError', () => undefined);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const sections = ['generic/1', 'http2/6.9'];
  const cases = await runH2spec('127.0.0.1', port, { strict: true, timeoutSeconds: 10, sections });
  server.close();
  assert.equal(cases.find((one) => one.section === 'generic/1')?.outcome, 'passed');
  assert.ok(cases.length > 5);
  assert.deepEqual(
    cases.filter((one) => one.outcome === 'failed' && one.detail === ''),
    [],
  );
});
