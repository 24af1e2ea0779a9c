// SPDX-License-Identifier: Apache-2.0
// The command line of `mesh install`. What it does is loaded when it is called.

import type { Argv } from 'yargs';
import type {
  ClusterFlags,
  InstallCniFlags,
  InstallFlags,
  UninstallCniFlags,
  UninstallFlags,
  UpgradeFlags,
} from './actions.ts';

const DEFAULT_NAMESPACE = 'nodemesh';

/** Flags of every command that speaks to a cluster and prints objects. */
const clusterOptions = (parser: Argv): Argv =>
  accessOptions(parser).option('output', {
    alias: 'o',
    type: 'string',
    requiresArg: true,
    default: 'yaml',
    describe: 'yaml or json',
  });

export function accessOptions(parser: Argv): Argv {
  return parser
    .option('linkerd-namespace', {
      alias: 'L',
      type: 'string',
      requiresArg: true,
      default: DEFAULT_NAMESPACE,
      describe: 'the namespace of the control plane; also $LINKERD_NAMESPACE',
    })
    .option('kubeconfig', { type: 'string', requiresArg: true, describe: 'path of the kubeconfig' })
    .option('context', { type: 'string', requiresArg: true, describe: 'context of the kubeconfig' })
    .option('as', { type: 'string', requiresArg: true, describe: 'user to impersonate' })
    .option('as-group', { type: 'string', array: true, requiresArg: true, describe: 'group to impersonate' });
}

const actions = () => import('./actions.ts');
const flags = () => import('./flags.ts');

export function installCommands(parser: Argv): Argv {
  return parser
    .command(
      'install',
      'print the objects of the control plane, for kubectl apply -f -',
      async (y) =>
        clusterOptions(y)
          .usage('$0 install [--crds] | kubectl apply -f -')
          .option('crds', { type: 'boolean', default: false, describe: 'print only the CRDs' })
          .option('ignore-cluster', {
            type: 'boolean',
            default: false,
            describe: 'ask no cluster; needs an issuer',
          })
          .options((await flags()).valueOptions('install')),
      async (args) => (await actions()).runInstall(args as unknown as InstallFlags),
    )
    .command(
      'install-cni',
      'print the objects of what runs on the nodes (agent, keeper, CNI plugin), for kubectl apply -f -',
      async (y) =>
        clusterOptions(y)
          .usage('$0 install-cni | kubectl apply -f -')
          .option('ignore-cluster', {
            type: 'boolean',
            default: false,
            describe: 'ask no cluster for the values of the control plane',
          })
          .options((await flags()).cniOptions()),
      async (args) => (await actions()).runInstallCni(args as unknown as InstallCniFlags),
    )
    .command(
      'uninstall-cni',
      'take everything off the nodes: agent, keeper, CNI plugin and what they left in the kernel',
      async (y) =>
        accessOptions(y)
          .usage('$0 uninstall-cni')
          .option('force', {
            alias: 'f',
            type: 'boolean',
            default: false,
            describe: 'although pods are in the mesh',
          })
          .option('wait', {
            type: 'string',
            requiresArg: true,
            default: '5m',
            describe: 'how long to wait for all nodes',
          })
          .options((await flags()).removalOptions()),
      async (args) => (await actions()).runUninstallCni(args as unknown as UninstallCniFlags),
    )
    .command(
      'upgrade',
      'print the objects of this version with the values of the installation, for kubectl apply -f -',
      async (y) =>
        clusterOptions(y)
          .usage('$0 upgrade [--crds] | kubectl apply -f -')
          .option('crds', { type: 'boolean', default: false, describe: 'print only the CRDs' })
          .option('from-manifests', {
            type: 'string',
            requiresArg: true,
            describe: 'take the values from an install manifest (file, "-" or URL) instead of the cluster',
          })
          .option('force', {
            type: 'boolean',
            default: false,
            describe: 'take a new issuer although it does not lead to the trust anchors',
          })
          .options((await flags()).valueOptions('upgrade')),
      async (args) => (await actions()).runUpgrade(args as unknown as UpgradeFlags),
    )
    .command(
      'uninstall',
      'print what is ours in the cluster, for kubectl delete -f -',
      (y) =>
        clusterOptions(y)
          .usage('$0 uninstall | kubectl delete -f -')
          .option('crds', {
            type: 'boolean',
            default: false,
            describe: 'the CRDs too, and with them every policy and profile',
          })
          .option('force', {
            alias: 'f',
            type: 'boolean',
            default: false,
            describe: 'although pods are in the mesh',
          }),
      async (args) => (await actions()).runUninstall(args as unknown as UninstallFlags),
    )
    .command(
      'prune',
      'print what earlier versions left in the cluster, for kubectl delete -f -',
      (y) => clusterOptions(y).usage('$0 prune | kubectl delete -f -'),
      async (args) => (await actions()).runPrune(args as unknown as ClusterFlags),
    );
}
