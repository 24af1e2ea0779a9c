// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { findPodsCgroup } from './find-cgroup.ts';

const uid = '0b0e7a2c-7a52-4d3f-9a55-0e0f6f0c9d11';
const underlined = uid.replaceAll('-', '_');

describe('the cgroup of all pods', () => {
  let mount: string;
  beforeEach(() => {
    mount = mkdtempSync(join(tmpdir(), 'nodemesh-cgroup-'));
  });
  afterEach(() => rmSync(mount, { recursive: true }));

  const folder = (...path: string[]) => mkdirSync(join(mount, ...path), { recursive: true });
  const version2 = (...path: string[]) => {
    folder(...path);
    writeFileSync(join(mount, ...path, 'cgroup.controllers'), '');
  };

  for (const [name, all, pod] of [
    ['systemd', 'kubepods.slice', `kubepods-burstable.slice/kubepods-burstable-pod${underlined}.slice`],
    ['systemd, guaranteed', 'kubepods.slice', `kubepods-pod${underlined}.slice`],
    ['cgroupfs', 'kubepods', `besteffort/pod${uid}`],
    ['cgroupfs, guaranteed', 'kubepods', `pod${uid}`],
    [
      'kind',
      'kubelet.slice/kubelet-kubepods.slice',
      `kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod${underlined}.slice`,
    ],
    ['a root of its own', 'machines/one/kubelet/kubepods', `burstable/pod${uid}`],
  ] as const) {
    it(`is found by the agent's own pod: ${name}`, () => {
      version2();
      folder('system.slice', 'deep', 'deeper');
      folder(all, pod, 'container');
      assert.deepEqual(findPodsCgroup(mount, uid), { path: join(mount, all), hasAgent: true });
    });
  }

  it('is that of version 2 beside version 1', () => {
    folder('cpu', 'kubepods', `pod${uid}`);
    version2('unified');
    folder('unified', 'kubepods', 'burstable', `pod${uid}`);
    assert.deepEqual(findPodsCgroup(mount, uid), {
      path: join(mount, 'unified', 'kubepods'),
      hasAgent: true,
    });
  });

  it('is a usual one, else the root, where the pod is not in the tree', () => {
    version2();
    assert.deepEqual(findPodsCgroup(mount, uid), { path: mount, hasAgent: false });
    folder('kubelet.slice', 'kubelet-kubepods.slice');
    const kind = join(mount, 'kubelet.slice', 'kubelet-kubepods.slice');
    assert.deepEqual(findPodsCgroup(mount, ''), { path: kind, hasAgent: false });
    folder('kubepods.slice', 'kubepods-pod1234.slice');
    assert.equal(findPodsCgroup(mount, uid).path, join(mount, 'kubepods.slice'));
  });

  it('says what to do without version 2', () => {
    folder('cpu');
    assert.throws(() => findPodsCgroup(mount, uid), {
      code: 'MESH_HOST_UNFIT',
      message: /NODEMESH_PODS_CGROUP/,
    });
  });
});
