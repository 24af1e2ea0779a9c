// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';
import { connectionDescriptorsMax, podConnectionsMax } from './descriptor-share.ts';

const limits = (soft: string): string =>
  `Limit                     Soft Limit           Hard Limit           Units\nMax open files            ${soft}                20000                files\n`;

it('one pod gets half of the descriptors at most, whatever the number of workers', () => {
  assert.equal(podConnectionsMax(limits('20000'), 2), 5_000);
  assert.equal(podConnectionsMax(limits('20000'), 1), 10_000);
  assert.equal(podConnectionsMax(limits('1024'), 4), 256, 'never so few that nothing works');
  assert.equal(podConnectionsMax(limits('unlimited'), 4), 16_384);
  assert.equal(podConnectionsMax(limits('1048576'), 4), 16_384);
  assert.ok(podConnectionsMax(readFileSync('/proc/self/limits', 'utf8'), 1) >= 256);
});

it('a part of the descriptors is kept back from new connections', () => {
  assert.equal(connectionDescriptorsMax(limits('1024')), 768);
  assert.equal(connectionDescriptorsMax(limits('1048576')), 1_047_552);
  assert.equal(connectionDescriptorsMax(limits('unlimited')), Number.POSITIVE_INFINITY);
});
