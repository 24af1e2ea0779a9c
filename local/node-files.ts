// SPDX-License-Identifier: Apache-2.0
// Makes the folders, the bpffs, the cgroups and the CNI configuration of a local mesh's nodes.

import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { makeCgroup, removeCgroup } from './cgroups.ts';
import { runChecked } from './command.ts';
import type { MeshLayout, NodeLayout } from './layout.ts';
import { POD_BRIDGE } from './network.ts';
import { CONFLIST_NAME } from './sandbox.ts';

export const DEBIAN_CNI_DIR = '/usr/lib/cni';
const CHAINED_PLUGINS = ['bridge', 'host-local', 'loopback'] as const;
const SHIM = 'nodemesh-cni';

/** Debian's bridge and host-local, then the mesh's plugin if the node has an agent. */
export function conflist(node: NodeLayout, meshed: boolean): object {
  return {
    cniVersion: '1.0.0',
    name: 'nodemesh-local',
    plugins: [
      {
        type: 'bridge',
        bridge: POD_BRIDGE,
        isGateway: true,
        ipMasq: false,
        ipam: {
          type: 'host-local',
          dataDir: node.ipamDir,
          ranges: [[{ subnet: node.podNetwork.v4 }], [{ subnet: node.podNetwork.v6 }]],
          routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
        },
      },
      ...(meshed
        ? [
            {
              type: SHIM,
              socket: join(node.runDir, 'cni.sock'),
              enrolledList: join(node.stateDir, 'enrolled'),
              tombstones: join(node.runDir, 'tombstones'),
            },
          ]
        : []),
    ],
  };
}

function linkPlugins(node: NodeLayout, root: string, meshed: boolean): void {
  for (const plugin of CHAINED_PLUGINS) {
    symlinkSync(join(DEBIAN_CNI_DIR, plugin), join(node.cniBinDir, plugin));
  }
  if (!meshed) return;
  const shim = join(root, 'build', 'cni', SHIM);
  for (const path of [
    shim,
    join(root, 'build', 'keeper'),
    join(root, 'build', 'agent-parent'),
    join(root, 'build', 'connect-test'),
  ]) {
    if (existsSync(path)) continue;
    throw new MeshError('MESH_HOST_UNFIT', `${path} has not been compiled`, { remedy: 'run "make setup"' });
  }
  symlinkSync(shim, join(node.cniBinDir, SHIM));
}

/** What a machine has anew after each boot. */
export async function bootFiles(node: NodeLayout): Promise<void> {
  for (const folder of [node.bpffs, node.runDir, node.podsDir])
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  await runChecked(['mount', '-t', 'bpf', '-o', 'mode=0700', 'bpf', node.bpffs]);
  for (const cgroup of [node.podsCgroup, node.agentCgroup, node.systemCgroup]) await makeCgroup(cgroup);
}

/** Takes away what a machine loses when it goes down: processes, pins, sockets. What is on its disk stays. */
export async function loseFiles(node: NodeLayout): Promise<void> {
  await removeCgroup(node.cgroup);
  await runChecked(['umount', node.bpffs]);
  for (const folder of [node.runDir, node.podsDir]) rmSync(folder, { recursive: true });
}

async function makeNodeFiles(node: NodeLayout, root: string, meshed: boolean): Promise<void> {
  for (const folder of [node.stateDir, node.cniConfDir, node.cniBinDir, node.ipamDir, node.logDir])
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  await bootFiles(node);
  linkPlugins(node, root, meshed);
  writeFileSync(join(node.cniConfDir, CONFLIST_NAME), `${JSON.stringify(conflist(node, meshed), null, 2)}\n`);
}

/** `root` is the project's folder. */
export async function makeFiles(layout: MeshLayout, root: string, meshed: boolean): Promise<void> {
  for (const folder of [layout.dir, layout.registryDir, layout.keysDir, layout.tokensDir, layout.logDir]) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  }
  await makeCgroup(layout.controlCgroup);
  for (const node of layout.nodes) await makeNodeFiles(node, root, meshed);
}
