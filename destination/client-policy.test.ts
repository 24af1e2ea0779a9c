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
        '-consecutive-max-penalty': '90s',
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
      { '-consecutive-max-penalty': '1m30s' },
      { '-consecutive-jitter-ratio': 'NaN' },
    ]) {
      assert.equal(accrual({ '': 'consecutive', ...wrong }), undefined, JSON.stringify(wrong));
    }
  });
  it('limits the time of requests, unless one of the limits cannot be read', () => {
    const set = { 'timeout.linkerd.io/request': '10s', 'timeout.linkerd.io/response': '500ms' };
    const limited = { timeouts: { requestMs: 10_000, responseMs: 500 } };
    assert.deepEqual(read(set), limited);
    assert.deepEqual(read({ ...set, 'timeout.linkerd.io/idle': '0' }), limited);
    assert.deepEqual(read({ ...set, 'timeout.linkerd.io/idle': 'soon' }), {});
    assert.deepEqual(read({ 'timeout.linkerd.io/request': '0' }), {});
  });
  it('names what is sent again, how often, and how long an attempt may take', () => {
    const retry = (changes: Record<string, string>) =>
      read(
        Object.fromEntries(
          Object.entries(changes).map(([name, value]) => [`retry.linkerd.io/${name}`, value]),
        ),
      ).retry;
    assert.deepEqual(
      retry({
        http: '5xx,gateway-error,429,200-299',
        grpc: 'cancelled,deadline-exceeded,internal,resource-exhausted,unavailable',
        limit: '3',
        timeout: '250ms',
      }),
      {
        statuses: [
          [500, 599],
          [502, 504],
          [429, 429],
          [200, 299],
        ],
        grpcCodes: [1, 4, 13, 8, 14],
        maxRetries: 3,
        timeoutMs: 250,
      },
    );
    const bare = { statuses: [], grpcCodes: [], maxRetries: 1 };
    assert.deepEqual(retry({ limit: '0' }), bare, 'not set, and so the default');
    assert.deepEqual(retry({ timeout: '1s' }), { ...bare, timeoutMs: 1000 });
    assert.deepEqual(retry({ timeout: '0' }), bare);
    for (const wrong of [
      { http: '5xx, 429' },
      { http: '' },
      { http: '600' },
      { http: '504-500' },
      { http: '4xx' },
      { grpc: 'UNAVAILABLE' },
      { limit: '65536' },
      { limit: '-1' },
      { timeout: '1m30s' },
      { timeout: '1' },
    ]) {
      assert.equal(retry({ grpc: 'internal', ...wrong }), undefined, JSON.stringify(wrong));
    }
  });
  it('lets requests set limits for themselves where the cluster says so', () => {
    const { metadata } = { metadata: { annotations: {} } as unknown as Parameters<typeof clientPolicy>[0] };
    assert.deepEqual(clientPolicy(metadata, true), { allowL5dRequestHeaders: true });
    assert.deepEqual(clientPolicy(metadata, false), {});
  });
  it('travels as a header, of which nonsense counts as nothing', () => {
    const policy = {
      accrual: defaults,
      timeouts: { requestMs: 5, idleMs: 7 },
      retry: { statuses: [[500, 599] as const], grpcCodes: [14], maxRetries: 2, timeoutMs: 100 },
      allowL5dRequestHeaders: true,
    };
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
      '{"retry":{"statuses":[[500,599]]}}',
      '{"allowL5dRequestHeaders":"yes"}',
    ]) {
      assert.deepEqual(decodeClientPolicy(text), {}, text);
    }
  });
});
