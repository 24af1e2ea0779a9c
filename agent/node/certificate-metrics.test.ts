// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { certificateMetrics } from './certificate-metrics.ts';
import type { PodView } from './enrolment-model.ts';

const pod = (uid: string, identity: string): PodView => ({
  uid,
  namespace: 'shop',
  name: uid,
  phase: 'enrolled',
  wanted: true,
  reason: '',
  problem: '',
  netnsPath: undefined,
  generation: 1,
  addresses: [],
  identity,
  ownerKind: 'deployment',
  ownerName: 'web',
});

test('each pod has its certificate’s figures, in its own view too', async () => {
  const registry = new MetricRegistry([], systemClock);
  const certificate = { identity: 'web', chainPem: '', keyPem: '', notAfterMs: 86_400_000 };
  certificateMetrics(registry, {
    enrolment: { pods: [pod('a', 'web'), pod('b', 'web'), pod('c', ''), pod('d', 'new')] },
    certificates: {
      get: (identity) => (identity === 'web' ? certificate : undefined),
      refreshes: (identity) =>
        identity === 'web' ? { ok: 3, failed: 1, lastAtMs: 5000 } : { ok: 0, failed: 2, lastAtMs: 0 },
    },
    controlPlaneNamespace: 'linkerd',
  });
  const samples = (text: string): string[] => text.split('\n').filter((line) => /^[a-z]/.test(line));
  const labels = 'namespace="shop",pod="a",deployment="web",control_plane_ns="linkerd",workload_ns="shop"';
  assert.deepEqual(samples(await registry.render('a')), [
    `control_identity_cert_expiration_timestamp_seconds{${labels}} 86400`,
    `control_identity_cert_refresh_timestamp_seconds{${labels}} 5`,
    `control_identity_cert_refreshes_total{result="ok",${labels}} 3`,
    `control_identity_cert_refreshes_total{result="error",${labels}} 1`,
  ]);
  assert.equal(samples(await registry.render()).length, 4 + 4 + 2);
});
