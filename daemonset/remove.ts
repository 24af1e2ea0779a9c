// SPDX-License-Identifier: Apache-2.0
// Entry point of the removal: `node daemonset/remove.ts unchain|finish|stay`, the steps of the DaemonSet that
// `mesh uninstall-cni` applies. The work is lib/cni-install/remove-node.ts.

import { setTimeout as sleep } from 'node:timers/promises';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { finish, type NodeFolders, unchain } from '#lib/cni-install/remove-node.ts';
import { createLog } from '#lib/log/pino.ts';

/** As the DaemonSet mounts them. */
const folders: NodeFolders = {
  confDir: '/host/etc/cni/net.d',
  binDir: '/host/opt/cni/bin',
  runDir: '/host/run/nodemesh',
  stateDir: '/host/var/lib/nodemesh',
  pins: '/sys/fs/bpf/nodemesh',
};

try {
  const [verb] = process.argv.slice(2);
  if (verb === 'unchain') unchain(folders);
  else if (verb === 'finish') await finish(folders, { log: createLog('cni-removal', 'info'), sleep });
  else if (verb === 'stay') setInterval(() => undefined, 2 ** 31 - 1);
  else throw new MeshError('MESH_CONFIG_INVALID', 'say unchain, finish or stay');
} catch (error) {
  process.stderr.write(`${errorMessage(error)}\n`);
  process.exitCode = 1;
}
