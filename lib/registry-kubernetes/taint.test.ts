// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { afterEach, beforeEach, it } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { createApiClient, type KubernetesApi } from './api-client.ts';
import { FakeApiServer, failure, send } from './fake-api-server.ts';
import { removeTaint } from './taint.ts';

const ours = { key: 'nodemesh.io/agent-not-ready', effect: 'NoSchedule' };
const other = { key: 'other', effect: 'NoExecute' };

let fake: FakeApiServer;
let api: KubernetesApi;
let taints: readonly object[];
beforeEach(async () => {
  fake = await FakeApiServer.start([]);
  api = createApiClient({
    access: { server: fake.url, credentials: () => Promise.resolve({ headers: {} }) },
    clock: systemClock,
    userAgent: 'test',
  });
  fake.intercept = ({ method, path, headers, body }, response) => {
    assert.equal(`${method} ${path}`, 'PATCH /api/v1/nodes/n1');
    assert.equal(headers['content-type'], 'application/json-patch+json');
    const done = patched(body as readonly Operation[]);
    if (done) send(response, 200, { spec: { taints } });
    else send(response, 422, failure(422, 'Invalid'));
    return true;
  };
});
afterEach(async () => {
  api.close();
  await fake.close();
});

interface Operation {
  readonly op: string;
  readonly path: string;
  readonly value?: string;
}

/** What RFC 6902 makes of it: everything or nothing. */
function patched(operations: readonly Operation[]): boolean {
  let next = taints;
  for (const { op, path, value } of operations) {
    const [, index, field] = /^\/spec\/taints\/(\d+)(?:\/(\w+))?$/.exec(path) ?? assert.fail(path);
    const at: Readonly<Record<string, string>> | undefined = { ...next[Number(index)] };
    if (op === 'test') {
      if (at[field ?? ''] !== value) return false;
    } else if (op === 'remove' && field === undefined) next = next.toSpliced(Number(index), 1);
    else assert.fail(`${op} ${path}`);
  }
  taints = next;
  return true;
}

it('a taint is taken off only where it still stands', async () => {
  taints = [other, ours];
  await removeTaint(api, 'n1', 1, ours);
  assert.deepEqual(taints, [other]);
  for (const moved of [
    [ours, other],
    [other, { ...ours, key: other.key }],
    [other, { ...ours, effect: other.effect }],
    [other],
  ]) {
    taints = moved;
    await assert.rejects(removeTaint(api, 'n1', 1, ours));
    assert.deepEqual(taints, moved);
  }
});
