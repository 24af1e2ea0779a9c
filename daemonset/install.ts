// SPDX-License-Identifier: Apache-2.0
// Entry point of the installer: `node daemonset/install.ts install|watch|uninstall` puts the CNI plugin onto the node
// whose folders are mounted, keeps it there until SIGTERM (which leaves it), or removes it. The work is
// lib/cni-install/; manifests are not here.

import { systemClock } from '#lib/core/clock.ts';
import { asList, asText, describeConfig, loadConfig, type Setting } from '#lib/core/config.ts';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { PLUGIN_TYPE } from '#lib/cni-install/conflist.ts';
import { installCni, uninstallCni } from '#lib/cni-install/install.ts';
import { takeInstallerRole } from '#lib/cni-install/installer-role.ts';
import { keepInstalled } from '#lib/cni-install/keep-installed.ts';
import { createLog } from '#lib/log/pino.ts';

const text = (env: string, fallback: string, doc: string): Setting<string> => ({
  env,
  default: fallback,
  parse: asText,
  doc,
});

const settings = {
  confDir: text('NODEMESH_CNI_CONF_DIR', '/host/etc/cni/net.d', "The node's CNI configurations."),
  binDir: text('NODEMESH_CNI_BIN_DIR', '/host/opt/cni/bin', "The node's CNI plugins."),
  shim: text('NODEMESH_CNI_SHIM', 'build/cni/nodemesh-cni', 'The plugin to install.'),
  socket: text('NODEMESH_CNI_SOCKET', '/run/nodemesh/cni.sock', "The agent's socket, as seen on the node."),
  enrolledList: text(
    'NODEMESH_ENROLLED_LIST',
    '/var/lib/nodemesh/enrolled',
    'The list of enrolled namespaces and pods, on disk, as seen on the node.',
  ),
  tombstones: text(
    'NODEMESH_TOMBSTONES',
    '/run/nodemesh/tombstones',
    'Notes of removals while the agent is away.',
  ),
  namespace: text('NODEMESH_NAMESPACE', 'nodemesh', 'The namespace the mesh is installed in.'),
  excludeNamespaces: {
    env: 'NODEMESH_CNI_EXCLUDE_NAMESPACES',
    default: '',
    parse: asList,
    doc: 'Further namespaces whose pods always pass.',
  },
  roleFile: text(
    'NODEMESH_INSTALLER_ROLE',
    '',
    'A file on the node that tells which of two installers works during an upgrade; empty: there is one.',
  ),
  podUid: text('NODEMESH_POD_UID', '', "The uid of the installer's own pod."),
} as const;

try {
  const [verb] = process.argv.slice(2);
  const { confDir, binDir, shim, roleFile, podUid, ...entry } = loadConfig(settings, process.env);
  if (verb === 'install') {
    const installed = installCni({ confDir, binDir, shim, entry: { type: PLUGIN_TYPE, ...entry } });
    process.stdout.write(`${JSON.stringify(installed)}\n`);
  } else if (verb === 'watch') {
    const log = createLog('cni-install', 'info');
    const role =
      roleFile === '' ? undefined : takeInstallerRole(roleFile, podUid, () => systemClock.wallMs());
    const kept = keepInstalled({
      confDir,
      binDir,
      shim,
      entry: { type: PLUGIN_TYPE, ...entry },
      clock: systemClock,
      log,
      ...(role === undefined ? {} : { holds: () => role.holds() }),
    });
    // Nothing else keeps this process alive.
    const alive = setInterval(() => undefined, 2 ** 31 - 1);
    process.on('SIGTERM', () => {
      clearInterval(alive);
      kept.close();
      role?.close();
      log.info(
        { repairs: kept.repairs, failures: kept.failures },
        'the CNI plugin stays; nobody watches it now',
      );
    });
  } else if (verb === 'uninstall') {
    uninstallCni({ confDir, binDir });
  } else {
    throw new MeshError('MESH_CONFIG_INVALID', 'say install, watch or uninstall', {
      remedy: `settings are\n${describeConfig(settings)}`,
    });
  }
} catch (error) {
  process.stderr.write(`${errorMessage(error)}\n`);
  process.exitCode = 1;
}
