// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import type { AnyResource } from '#lib/registry/model.ts';
import { parseResource } from '#lib/registry/resource-schema.ts';
import { ResourceStore } from '#lib/registry/resource-store.ts';
import { removeStartupTaints } from './startup-taint.ts';

const KEY = 'nodemesh.io/agent-not-ready';

const read = (kind: 'Node' | 'Pod', object: object): AnyResource => {
  const parsed = parseResource(kind, { apiVersion: 'v1', kind, ...object }, 'c');
  assert.ok(parsed.ok, JSON.stringify(parsed));
  return parsed.resource;
};
const node = (name: string, ...keys: readonly string[]): AnyResource =>
  read('Node', {
    metadata: { name, uid: name },
    spec: { taints: keys.map((key) => ({ key, effect: 'NoSchedule' })) },
  });
const agent = (nodeName: string, ready: boolean, serviceAccountName = 'nodemesh-agent'): AnyResource =>
  read('Pod', {
    metadata: { name: `agent-${nodeName}`, namespace: 'nodemesh', uid: `agent-${nodeName}` },
    spec: { nodeName, serviceAccountName, containers: [{ name: 'agent', image: 'x' }] },
    status: { phase: 'Running', conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
  });

describe('the startup taint', () => {
  let store = new ResourceStore();
  let clock = new VirtualClock();
  let removed: string[] = [];
  let refuse = false;
  let leading = true;
  let lead: (leading: boolean) => void = () => undefined;
  const log = recordingLog();

  beforeEach(() => {
    store = new ResourceStore();
    clock = new VirtualClock();
    removed = [];
    refuse = false;
    leading = true;
  });

  const start = () =>
    removeStartupTaints({
      key: KEY,
      registry: { list: (kind) => store.list(kind), watch: (kind, handlers) => store.watch(kind, handlers) },
      agent: { namespace: 'nodemesh', serviceAccount: 'nodemesh-agent' },
      leadership: {
        get leading() {
          return leading;
        },
        onChange: (listener) => {
          lead = listener;
        },
      },
      removeTaint(name, index, { key }) {
        removed.push(`${name} ${index} ${key}`);
        return refuse ? Promise.reject(new Error('no')) : Promise.resolve();
      },
      clock,
      log,
    });

  it('is taken off when the agent of the node becomes ready, and only then', () => {
    start();
    store.put(node('n1', 'other', KEY));
    store.put(node('n2', KEY));
    store.put(agent('n1', false));
    store.put(agent('n2', true, 'impostor'));
    assert.deepEqual(removed, []);
    store.put(agent('n1', true));
    assert.deepEqual(removed, [`n1 1 ${KEY}`]);
  });

  it('is taken off a node whose agent is ready before the taint comes', () => {
    start();
    store.put(agent('n1', true));
    store.put(node('n1', 'other'));
    assert.deepEqual(removed, []);
    store.put(node('n1', KEY));
    assert.deepEqual(removed, [`n1 0 ${KEY}`]);
  });

  it('is left to the replica that leads, and taken off by the next one', () => {
    leading = false;
    start();
    store.put(node('n1', KEY));
    store.put(agent('n1', true));
    assert.deepEqual(removed, []);
    leading = true;
    lead(true);
    assert.deepEqual(removed, [`n1 0 ${KEY}`]);
  });

  it('is tried again after a refusal, and no more after the end', async () => {
    refuse = true;
    const taints = start();
    store.put(node('n1', KEY));
    store.put(agent('n1', true));
    await new Promise(setImmediate);
    assert.equal(removed.length, 1);
    clock.advance(5000);
    await new Promise(setImmediate);
    assert.equal(removed.length, 2);
    taints.close();
    clock.advance(60_000);
    assert.equal(removed.length, 2);
  });
});
