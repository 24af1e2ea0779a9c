// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { statusMessage, timeoutMs } from './status.ts';

it('grpc-message: percent-encoded, and of bounded length', () => {
  assert.equal(statusMessage('no such service'), 'no such service');
  assert.equal(statusMessage('100 % of\n"ü"'), '100 %25 of%0A"%C3%BC"');
  assert.equal(statusMessage('\ud800'), '%EF%BF%BD');
  assert.equal(statusMessage(' at the edges '), 'at the edges');
  assert.equal(statusMessage('x'.repeat(2049)).length, 2048);
});

it('grpc-timeout: up to eight digits and a unit', () => {
  assert.equal(timeoutMs('2H'), 7_200_000);
  assert.equal(timeoutMs('3M'), 180_000);
  assert.equal(timeoutMs('4S'), 4_000);
  assert.equal(timeoutMs('5m'), 5);
  assert.equal(timeoutMs('1000u'), 1);
  assert.equal(timeoutMs('1000000n'), 1);
  assert.equal(timeoutMs('99999999m'), 99_999_999);
  for (const bad of ['', '5', 'm', '100000000m', '-1S', '1.5S', '1 S', '1s'])
    assert.equal(timeoutMs(bad), undefined, bad);
});
