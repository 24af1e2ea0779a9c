// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { credentials } from '@grpc/grpc-js';
import { systemClock } from '#lib/core/clock.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { IdentityClient } from '#lib/proto/gen/linkerd/identity.ts';
import { controlFamilies, createControlMetrics } from './control-metrics.ts';

test('a call that never reached its server is a failed one of its address', async (t) => {
  const registry = new MetricRegistry(controlFamilies, systemClock);
  const control = createControlMetrics(registry, 'node1', systemClock);
  // Nobody listens on port 1.
  const client = new IdentityClient('127.0.0.1:1', credentials.createInsecure(), {
    interceptors: [control.interceptor('identity:8080', 'identity.mesh')],
  });
  t.after(() => client.close());
  const request = { identity: 'a', token: Buffer.alloc(0), certificateSigningRequest: Buffer.alloc(0) };
  await new Promise<void>((resolve) => client.certify(request, () => resolve()));
  const labels = 'addr="identity:8080",tls="true",server_id="identity.mesh"';
  const text = await registry.render();
  assert.ok(text.includes(`control_request_total{${labels},node="node1"} 1\n`), text);
  assert.ok(
    text.includes(
      `control_response_total{${labels},classification="failure",error="unclassified",node="node1"} 1\n`,
    ),
    text,
  );
});
