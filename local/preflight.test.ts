// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type HostFacts, problems } from './preflight.ts';

const fit: HostFacts = {
  uid: 0,
  kernel: '6.1.0-18-amd64',
  btf: true,
  cgroup2: '/sys/fs/cgroup',
  missingPrograms: [],
  missingFiles: [],
};

describe('preflight', () => {
  test('a fit machine has no problems', () => assert.deepEqual(problems(fit, true), []));

  const cases: Readonly<Record<string, [Partial<HostFacts>, RegExp]>> = {
    'no root': [{ uid: 1000 }, /root: .*sudo/],
    'an old kernel': [{ kernel: '5.10.0-28' }, /5\.10.*Linux 5\.15 or newer/],
    'no BTF': [{ btf: false }, /BTF.*--no-mesh/],
    'no cgroup2': [{ cgroup2: undefined }, /mount -t cgroup2/],
    'a missing program': [{ missingPrograms: ['nft'] }, /^nft is not installed: apt-get install nftables$/],
    'a missing plugin': [
      { missingFiles: ['/usr/lib/cni/bridge'] },
      /apt-get install containernetworking-plugins/,
    ],
  };
  for (const [name, [change, expected]] of Object.entries(cases)) {
    test(`${name}: one line with the remedy`, () => {
      const found = problems({ ...fit, ...change }, true);
      assert.equal(found.length, 1);
      assert.match(found[0] ?? '', expected);
      assert.ok(!found[0]?.includes('\n'));
    });
  }

  test('plain pods need no BTF', () => assert.deepEqual(problems({ ...fit, btf: false }, false), []));
  test('the oldest kernel that will do', () =>
    assert.deepEqual(problems({ ...fit, kernel: '5.15.0' }, true), []));
});
