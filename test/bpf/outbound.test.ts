// SPDX-License-Identifier: Apache-2.0
// Connects of applications: which are pointed at the agent, and what agent and application are told.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { TestNode, type TestPod } from './harness.ts';

describe('outbound', () => {
  let node: TestNode;
  let pod: TestPod;
  before(() => {
    node = new TestNode('out');
    pod = node.pod('a');
    pod.enrol();
  });
  after(() => node.close());

  for (const [what, family, dialled, canonical] of [
    ['IPv4', 4, '10.99.0.7', '10.99.0.7'],
    ['IPv6', 6, 'fd99::7', 'fd99::7'],
    ['IPv4-mapped', 6, '::ffff:10.99.0.7', '10.99.0.7'],
  ] as const) {
    it(`gives the agent the dialled ${what} address and port, and the application too`, async () => {
      const app = pod.app();
      const fd = await app.call(`socket ${family}`);
      assert.equal(await app.call(`connect ${fd} ${dialled} 8080`), '0');
      const got = await pod.next();
      assert.equal(got.direction, 'outbound');
      assert.deepEqual(got.record, { kind: 'outbound', ip: canonical, port: 8080, podIndex: 1 });
      assert.equal(await app.call(`peer ${fd}`), `${dialled} 8080`);
      const own = family === 4 ? pod.ip4 : what === 'IPv6' ? pod.ip6 : `::ffff:${pod.ip4}`;
      assert.match(await app.call(`name ${fd}`), new RegExp(`^${own} `));
      got.socket.end('over');
      assert.equal(await app.call(`recv ${fd}`), '=over');
    });
  }
});
