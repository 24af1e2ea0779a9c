// SPDX-License-Identifier: Apache-2.0
// A program: makes requests between two pods of one node, which speak as the argument says, and prints what was counted
// of them. A process has one private network in its life, so that two ways need two processes.

import { strict as assert } from 'node:assert';
import type { SameNode } from '../../agent/proxy/model.ts';
import { endpoint, identityOf, meshedOnly } from './harness.ts';
import { createScene, get, SERVER } from './scene.ts';

const scene = await createScene({ sameNode: process.argv[2] as Exclude<SameNode, 'mtls'>, http2: false });
assert.equal((await get('http', '/fine')).status, 200);
scene.setPolicy({
  authorizations: [
    { ...meshedOnly, authentication: { kind: 'tls', identities: [identityOf('other')], suffixes: [] } },
  ],
});
assert.equal((await get('http', '/denied')).status, 403);
scene.setPolicy({});
scene.lead('itself', [
  endpoint(SERVER, 1, { identity: identityOf('api'), inboundPort: 4143, localPodUid: scene.serverPod.uid }),
]);
assert.equal((await get('itself', '/refused')).status, 502);
const series = (await scene.client.metrics())
  .split('\n')
  .filter((line) => /^(in|out)bound_http|^(request|response)_total|^response_latency_ms_count/.test(line))
  // How long things took.
  .filter((line) => !/_seconds_(bucket|sum)/.test(line))
  .sort();
console.log(JSON.stringify(series));
await scene.close();
