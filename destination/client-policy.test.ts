// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { decodeClientPolicy, encodeClientPolicy } from '#lib/proto/client-policy.ts';
import { clientPolicy } from './client-policy.ts';

describe('what a service asks of its clients', () => {
  const read = (annotations: Record<string, string>) =>
    clientPolicy({ annotations } as unknown as Parameters<typeof clientPolicy>[0]);
  const accrual = (annotations: Record<string, string>) =>
    read(
      Object.fromEntries(
        Object.entries(annotations).map(([name, value]) => [
          `balancer.linkerd.io/failure-accrual${name}`,
          value,
        ]),
      ),
    ).accrual;
  const defaults = { maxFailures: 7, minPenaltyMs: 1000, maxPenaltyMs: 60_000, jitterRatio: 0.5 };

  it('leaves no endpoint out without the annotation, or with one of another kind', () => {
    assert.deepEqual(read({}), {});
    assert.equal(accrual({ '-consecutive-max-failures': '3' }), undefined);
    assert.equal(accrual({ '': 'success-rate' }), undefined);
  });
  it('has the defaults of Linkerd, and each value its annotation', () => {
    assert.deepEqual(accrual({ '': 'consecutive' }), defaults);
    assert.deepEqual(
      accrual({
        '': 'consecutive',
        '-consecutive-max-failures': '3',
        '-consecutive-min-penalty': '500ms',
        '-consecutive-max-penalty': '1m30s',
        '-consecutive-jitter-ratio': '0',
      }),
      { maxFailures: 3, minPenaltyMs: 500, maxPenaltyMs: 90_000, jitterRatio: 0 },
    );
  });
  it('is not heeded when a value cannot be read or makes no sense', () => {
    for (const wrong of [
      { '-consecutive-max-failures': '0' },
      { '-consecutive-max-failures': '-1' },
      { '-consecutive-max-failures': 'many' },
      { '-consecutive-min-penalty': '1' },
      { '-consecutive-min-penalty': '0' },
      { '-consecutive-min-penalty': '2m' },
      { '-consecutive-jitter-ratio': 'NaN' },
    ]) {
      assert.equal(accrual({ '': 'consecutive', ...wrong }), undefined, JSON.stringify(wrong));
    }
  });
  it('limits the time of requests', () => {
    assert.deepEqual(
      read({
        'timeout.linkerd.io/request': '10s',
        'timeout.linkerd.io/response': '500ms',
        'timeout.linkerd.io/idle': 'soon',
      }),
      { timeouts: { requestMs: 10_000, responseMs: 500 } },
    );
    assert.deepEqual(read({ 'timeout.linkerd.io/request': '0' }), {});
  });
  it('travels as a header, of which nonsense counts as nothing', () => {
    const policy = { accrual: defaults, timeouts: { requestMs: 5, idleMs: 7 } };
    assert.deepEqual(decodeClientPolicy(encodeClientPolicy(policy)), policy);
    assert.equal(encodeClientPolicy({}), '');
    for (const text of [
      '',
      '{',
      '7',
      'null',
      '{"accrual":7}',
      '{"accrual":{"maxFailures":0}}',
      '{"timeouts":{"idleMs":-1}}',
    ]) {
      assert.deepEqual(decodeClientPolicy(text), {}, text);
    }
  });
});
