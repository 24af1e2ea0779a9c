// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { decodeFailureAccrual, encodeFailureAccrual } from '#lib/proto/failure-accrual.ts';
import { failureAccrual } from './failure-accrual.ts';

describe('failure accrual of a service', () => {
  const read = (annotations: Record<string, string>) =>
    failureAccrual({
      name: 'api',
      namespace: 'shop',
      uid: 'u',
      labels: {},
      annotations: Object.fromEntries(
        Object.entries(annotations).map(([name, value]) => [
          `balancer.linkerd.io/failure-accrual${name}`,
          value,
        ]),
      ),
    } as unknown as Parameters<typeof failureAccrual>[0]);
  const defaults = { maxFailures: 7, minPenaltyMs: 1000, maxPenaltyMs: 60_000, jitterRatio: 0.5 };

  it('is none without the annotation, or of another kind', () => {
    assert.equal(read({}), undefined);
    assert.equal(read({ '-consecutive-max-failures': '3' }), undefined);
    assert.equal(read({ '': 'success-rate' }), undefined);
  });
  it('has the defaults of Linkerd, and each value its annotation', () => {
    assert.deepEqual(read({ '': 'consecutive' }), defaults);
    assert.deepEqual(
      read({
        '': 'consecutive',
        '-consecutive-max-failures': '3',
        '-consecutive-min-penalty': '500ms',
        '-consecutive-max-penalty': '1m30s',
        '-consecutive-jitter-ratio': '0',
      }),
      { maxFailures: 3, minPenaltyMs: 500, maxPenaltyMs: 90_000, jitterRatio: 0 },
    );
  });
  it('is none when a value cannot be read or makes no sense', () => {
    for (const wrong of [
      { '-consecutive-max-failures': '0' },
      { '-consecutive-max-failures': '-1' },
      { '-consecutive-max-failures': 'many' },
      { '-consecutive-min-penalty': '1' },
      { '-consecutive-min-penalty': '0' },
      { '-consecutive-min-penalty': '2m' },
      { '-consecutive-jitter-ratio': 'NaN' },
    ]) {
      assert.equal(read({ '': 'consecutive', ...wrong }), undefined, JSON.stringify(wrong));
    }
  });
  it('travels as a header, of which nonsense counts as none', () => {
    assert.deepEqual(decodeFailureAccrual(encodeFailureAccrual(defaults)), defaults);
    for (const text of [
      '',
      'unified;x=1',
      'consecutive',
      'consecutive;max-failures=0;min-penalty=1;max-penalty=1;jitter=0',
    ]) {
      assert.equal(decodeFailureAccrual(text), undefined, text);
    }
  });
});
