// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type AgentState, selfCheckOf } from './self-checks.ts';

const state = (node: string, pod: string, problems: readonly string[] = []): AgentState => ({
  pods: [{ uid: 'u1', namespace: 'shop', name: 'web' }],
  selfCheck: {
    lastRunAtMs: 0,
    node: { result: node as 'ok', problems: [] },
    pods: { u1: { result: pod as 'ok', problems } },
    repairs: { 'pod-link': 2, 'node-pins': 1 },
  },
});

describe('the self-check of a node in one word', () => {
  it('is the worst of its node and pods', () => {
    const word = (node: string, pod: string, problems?: readonly string[]) =>
      selfCheckOf('node1', state(node, pod, problems)).result;
    assert.equal(word('ok', 'ok'), 'ok');
    assert.equal(word('repaired', 'ok'), 'repaired');
    assert.equal(word('ok', 'repaired'), 'repaired');
    assert.equal(word('repaired', 'failed', ['pod-listeners: dead']), 'failed');
  });

  it('names the pod of a problem, when it was checked, and how much was mended', () => {
    assert.deepEqual(selfCheckOf('node1', state('ok', 'failed', ['pod-listeners: dead'])), {
      node: 'node1',
      result: 'failed',
      checkedAt: '1970-01-01T00:00:00.000Z',
      repairs: 3,
      problems: ['shop/web: pod-listeners: dead'],
    });
  });

  it('is unknown before the first check', () => {
    const never = { pods: [], selfCheck: { pods: {}, repairs: {} } };
    assert.equal(selfCheckOf('node1', never).result, 'unknown');
  });
});
