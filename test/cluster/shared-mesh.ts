// SPDX-License-Identifier: Apache-2.0
// The mesh with its default values on every node, which the files of one folder use one after the other, each with pods
// of its own: whoever comes first installs it, and whoever comes last removes it. A file that is run alone does both.
// What is left for the next one says so on the mesh's namespace, and is left only if the file's tests passed and all of
// the mesh is ready: after any other file the next one installs it anew.

import assert from 'node:assert/strict';
import { dirname, resolve } from 'node:path';
import { afterEach } from 'node:test';
import { type Cluster, openCluster } from './cluster.ts';
import { type Installation, installationOn, MESH_NAMESPACE } from './installation.ts';

const LEFT = 'nodemesh.io/test-left';

export interface Shared {
  readonly cluster: Cluster;
  readonly mesh: Installation;
}

export interface SharedMesh {
  /** With the mesh, all of it ready. */
  open(): Promise<Shared>;
  /** Without any mesh: the file's tests install it. */
  openWithout(): Promise<Shared>;
  /** Leaves the mesh to the next file, or removes it. Does nothing if it was not opened. */
  close(): Promise<void>;
}

/** Of the files of this run, in their order (scripts/test.ts), is the next one in the same folder? */
function nextShares(): boolean {
  const files = (process.env['NODEMESH_TEST_FILES'] ?? '').split(':').map((file) => resolve(file));
  const at = files.indexOf(process.argv[1] ?? '');
  const next = at < 0 ? undefined : files[at + 1];
  return next !== undefined && dirname(next) === dirname(files[at] ?? '');
}

const change = (cluster: Cluster, label: string): Promise<string> =>
  cluster.kubectl(['label', 'namespace', MESH_NAMESPACE, label]);

async function wasLeft(cluster: Cluster): Promise<boolean> {
  const left = await cluster.list([
    'namespaces',
    `--selector=${LEFT}`,
    `--field-selector=metadata.name=${MESH_NAMESPACE}`,
  ]);
  return left.length > 0;
}

async function ready({ mesh }: Shared): Promise<void> {
  await mesh.controlPlaneReady();
  await mesh.nodePodsReady('keeper');
  await mesh.nodePodsReady('agent');
}

/** To be called in the file's outermost `describe`. */
export function sharedMesh(): SharedMesh {
  let shared: Shared | undefined;
  let passed = 0;
  let failed = 0;
  afterEach((test) => {
    assert.ok('passed' in test);
    if (test.passed) passed++;
    else failed++;
  });

  async function openEither(): Promise<Shared> {
    const cluster = await openCluster();
    shared = { cluster, mesh: installationOn(cluster) };
    return shared;
  }

  return {
    async open() {
      const opened = await openEither();
      const { cluster, mesh } = opened;
      if (await wasLeft(cluster)) {
        // Until this file has passed, it is nobody else's.
        await change(cluster, `${LEFT}-`);
        // Takes back what the file before has changed of it.
        await mesh.apply('upgrade');
      } else {
        await mesh.removeAll();
        await mesh.installControlPlane();
      }
      await mesh.installNodes();
      await ready(opened);
      return opened;
    },
    async openWithout() {
      const opened = await openEither();
      await opened.mesh.removeAll();
      return opened;
    },
    async close() {
      if (shared === undefined) return;
      const { cluster, mesh } = shared;
      try {
        if (nextShares() && passed > 0 && failed === 0) {
          await ready(shared);
          await change(cluster, `${LEFT}=`);
        } else await mesh.removeAll();
      } finally {
        await cluster.close();
      }
    },
  };
}
