// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { RequestPolicy } from '#lib/core/request-policy.ts';
import { Head } from '../http1/head.ts';
import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { overridden, takeListOverrides, takeOverrides } from './request-overrides.ts';

const own = (fields: Record<string, string>, policy: RequestPolicy = {}): RequestPolicy =>
  overridden(policy, new Map(Object.entries(fields)));

test('a request without fields has its route’s policy', () => {
  const policy: RequestPolicy = { retry: { statuses: [], grpcCodes: [14], maxRetries: 3 } };
  assert.equal(own({}, policy), policy);
});

test('any field of retries makes a policy where there is none', () => {
  const bare = { statuses: [], grpcCodes: [], maxRetries: 1, timeoutMs: undefined };
  assert.deepEqual(own({ 'l5d-retry-http': '5xx,nonsense, 404,418' }).retry, {
    ...bare,
    statuses: [
      [500, 599],
      [418, 418],
    ],
  });
  assert.deepEqual(own({ 'l5d-retry-grpc': 'internal,OK' }).retry, { ...bare, grpcCodes: [13] });
  assert.deepEqual(own({ 'l5d-retry-limit': '4' }).retry, { ...bare, maxRetries: 4 });
  assert.deepEqual(own({ 'l5d-retry-timeout': '2s' }).retry, { ...bare, timeoutMs: 2000 });
  assert.equal(own({ 'l5d-retry-http': '5xx', 'l5d-retry-limit': '0' }).retry, undefined);
  for (const wrong of [{ 'l5d-retry-limit': '-1' }, { 'l5d-retry-timeout': 'soon' }]) {
    assert.equal(own(wrong).retry, undefined, JSON.stringify(wrong));
  }
});

test('fields replace parts of a policy', () => {
  const policy: RequestPolicy = {
    timeouts: { requestMs: 1, responseMs: 2, idleMs: 3 },
    retry: { statuses: [[500, 599]], grpcCodes: [14], maxRetries: 3, timeoutMs: 7 },
  };
  assert.deepEqual(own({ 'l5d-retry-limit': '1', 'l5d-retry-timeout': '0' }, policy).retry, {
    ...policy.retry,
    maxRetries: 1,
    timeoutMs: undefined,
  });
  const limits = (fields: Record<string, string>) => own(fields, policy).timeouts;
  assert.deepEqual(limits({ 'l5d-timeout': '1s' }), { requestMs: 1000, responseMs: 2, idleMs: 3 });
  assert.equal(limits({ 'l5d-timeout': '1s', 'l5d-request-timeout': '3s' })?.requestMs, 3000);
  assert.equal(limits({ 'l5d-response-timeout': '1m' })?.responseMs, 60_000);
  assert.equal(limits({ 'l5d-timeout': '1.5s' })?.requestMs, 1);
});

test('they are taken out of heads and lists, and nothing else is', () => {
  const text = 'GET / HTTP/1.1\r\nL5d-Timeout: 1s \r\nA: b\r\nl5d-timeout: 2s\r\nl5d-other: c\r\n\r\n';
  const bytes = Buffer.from(text, 'latin1');
  const head = new Head();
  const end = head.parseRequest(bytes, 0, bytes.length, false);
  assert.deepEqual([...takeOverrides(head, bytes)], [['l5d-timeout', '1s']]);
  const start = head.compact(bytes, false);
  assert.equal(bytes.toString('latin1', start, end), 'GET / HTTP/1.1\r\nA: b\r\nl5d-other: c\r\n\r\n');
  const list = new HeaderList();
  for (const name of ['a', 'l5d-retry-http', 'l5d-other']) list.add(defineField(name, '5xx'));
  assert.deepEqual([...takeListOverrides(list)], [['l5d-retry-http', '5xx']]);
  assert.deepEqual(
    list.fields.slice(0, list.length).map(({ name }) => name),
    ['a', 'l5d-other'],
  );
});
