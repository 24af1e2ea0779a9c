// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseResource } from './resource-schema.ts';
import { proxyPortsOf, sidecarOf } from './sidecar.ts';

const defaults = { inbound: 4143, control: 4190, admin: 4191 };

function sidecarIn(
  labels: Readonly<Record<string, string>>,
  containers: readonly object[],
  initContainers: readonly object[] = [],
): ReturnType<typeof sidecarOf> {
  const parsed = parseResource(
    'Pod',
    { metadata: { name: 'a', labels }, spec: { containers, initContainers } },
    'local',
  );
  assert.ok(parsed.ok && parsed.resource.kind === 'Pod');
  return sidecarOf(parsed.resource);
}

test('a sidecar is a label and a container together, also one that starts before the others', () => {
  const labels = { 'linkerd.io/control-plane-ns': 'linkerd' };
  const found = { controlPlane: 'linkerd', ports: defaults };
  assert.deepEqual(sidecarIn(labels, [{ name: 'main' }, { name: 'linkerd-proxy' }]), found);
  assert.deepEqual(sidecarIn(labels, [{ name: 'main' }], [{ name: 'linkerd-proxy' }]), found);
  assert.equal(sidecarIn(labels, [{ name: 'main' }]), undefined);
  assert.equal(sidecarIn({}, [{ name: 'linkerd-proxy' }]), undefined);
});

test('where the proxy listens stands in its environment; what cannot be read there is the default', () => {
  const env = (...entries: readonly unknown[]): unknown => entries;
  const listen = (name: string, value: unknown): object => ({
    name: `LINKERD2_PROXY_${name}_LISTEN_ADDR`,
    value,
  });
  assert.deepEqual(
    proxyPortsOf(
      env(listen('INBOUND', '0.0.0.0:1'), listen('ADMIN', '[::]:2'), listen('CONTROL', '127.0.0.1:3')),
    ),
    { inbound: 1, admin: 2, control: 3 },
  );
  for (const odd of [
    undefined,
    null,
    'text',
    env(),
    env(null, 1, { name: 'x' }),
    env(listen('INBOUND', 7)),
  ]) {
    assert.deepEqual(proxyPortsOf(odd), defaults);
  }
  assert.deepEqual(
    proxyPortsOf(env(listen('INBOUND', 'nowhere'), listen('ADMIN', '1.2.3.4:99999'))),
    defaults,
  );
});
