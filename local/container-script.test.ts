// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { capabilitiesOf, DEFAULT_CAPABILITIES, expandVariables, quote } from './container-script.ts';

describe('capabilities', () => {
  test('containerd gives the same set by default', () =>
    assert.deepEqual(capabilitiesOf({}), [...DEFAULT_CAPABILITIES]));
  test('drop ALL leaves what is added', () => {
    assert.deepEqual(capabilitiesOf({ capabilities: { add: [], drop: ['ALL'] } }), []);
    assert.deepEqual(capabilitiesOf({ capabilities: { add: ['CAP_NET_RAW'], drop: ['ALL'] } }), ['NET_RAW']);
  });
  test('one can be dropped, one added; privileged and add ALL give all', () => {
    const some = capabilitiesOf({ capabilities: { add: ['NET_ADMIN'], drop: ['NET_RAW'] } });
    assert.ok(some.includes('NET_ADMIN') && !some.includes('NET_RAW'));
    assert.deepEqual(capabilitiesOf({ privileged: true }), ['ALL']);
    assert.deepEqual(capabilitiesOf({ capabilities: { add: ['ALL'], drop: [] } }), ['ALL']);
  });
});

test('references to variables are resolved as Kubernetes does', () => {
  const known = new Map([['A', '1']]);
  assert.equal(expandVariables('$(A) $(B) $$(A) $A ${A}', known), '1 $(B) $(A) $A ${A}');
});

test('a quoted text is one word to the shell, whatever is in it', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0')),
        { maxLength: 4 },
      ),
      (words) => {
        const printed = execFileSync('sh', ['-c', `printf '%s\\0' ${words.map(quote).join(' ')}`], {
          encoding: 'utf8',
        });
        assert.equal(printed, words.length === 0 ? '\0' : words.map((word) => `${word}\0`).join(''));
      },
    ),
    { numRuns: 30 },
  );
});
