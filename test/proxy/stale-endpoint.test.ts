// SPDX-License-Identifier: Apache-2.0
// What a client knows of endpoints may be older than the pods of its node: an address that another pod has taken over
// is never reached with the voucher in the place of TLS, which would prove nothing about who is there.

import { strict as assert } from 'node:assert';
import { after, before, describe, test } from 'node:test';
import { endpoint, identityOf } from './harness.ts';
import { createScene, get, HTTP_PORT, type Scene, SERVER } from './scene.ts';

describe('an address that another pod of the node has taken over', () => {
  let scene: Scene;
  before(async () => {
    scene = await createScene({ sameNode: 'carrier' });
  });
  after(async () => scene.close());

  const leadTo = (identity: string, localPodUid: string): void =>
    scene.lead('http', [endpoint(SERVER, HTTP_PORT, { identity, inboundPort: 4143, localPodUid })]);

  test('the pod that is there is reached by its own name', async () => {
    leadTo(identityOf('api'), scene.serverPod.uid);
    assert.equal((await get('http', '/right')).text, 'GET /right');
    assert.equal(scene.client.kernel.vouchers.size, 1);
  });

  test('requests for an earlier pod of another account do not reach it', async () => {
    leadTo(identityOf('earlier'), scene.serverPod.uid);
    assert.equal((await get('http', '/wrong')).status, 502);
    assert.ok(scene.requests.every(({ url }) => url !== '/wrong'));
    assert.equal(scene.client.kernel.vouchers.size, 1);
  });

  test('a pod that has left the node is dialled with TLS', async () => {
    leadTo(identityOf('api'), 'uid-of-a-dead-pod');
    assert.equal((await get('http', '/tls')).text, 'GET /tls');
    assert.equal(scene.client.kernel.vouchers.size, 1);
  });
});
