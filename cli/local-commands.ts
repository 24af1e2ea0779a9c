// SPDX-License-Identifier: Apache-2.0
// The command line of `mesh local`. What the commands do is local-actions.ts, loaded when one is called.

import type { Argv } from 'yargs';
import { UsageError } from './outcome.ts';

const actions = () => import('./local-actions.ts');

/** yargs makes an array of a repeated option; these may be given once. */
const once = <T>(value: T | readonly T[], option: string): T => {
  if (Array.isArray(value)) throw new UsageError(`--${option} may be given once`);
  return value as T;
};

const files = {
  alias: 'f',
  type: 'string',
  array: true,
  requiresArg: true,
  describe: 'a manifest, or "-" for standard input; may be repeated',
} as const;
const namespace = {
  alias: 'n',
  type: 'string',
  requiresArg: true,
  default: 'default',
  describe: 'the namespace',
} as const;
const nodeName = { type: 'string', demandOption: true, describe: 'node1, node2, …' } as const;
const waitOption = {
  type: 'boolean',
  default: true,
  describe: '--no-wait: return before all of that has ended',
} as const;
const container = { alias: 'c', type: 'string', requiresArg: true, describe: 'the container' } as const;

function environment(items: readonly string[] | undefined, option: string): Record<string, string> {
  const env: Record<string, string> = {};
  for (const item of items ?? []) {
    const match = /^([A-Z][A-Z0-9_]*)=(.*)$/s.exec(item);
    if (match?.[1] === undefined) throw new UsageError(`--${option} ${item}: expected NAME=VALUE`);
    env[match[1]] = match[2] ?? '';
  }
  return env;
}

const extraEnv = (who: string) =>
  ({
    type: 'string',
    array: true,
    requiresArg: true,
    describe: `NAME=VALUE, a further setting of ${who}; may be repeated`,
  }) as const;

/** `rest` is what followed `--`. */
export function localCommands(parser: Argv, rest: readonly string[]): Argv {
  return parser
    .usage('$0 local <command>\n\nNodes and pods out of network namespaces on this machine; needs root.')
    .option('name', {
      type: 'string',
      requiresArg: true,
      default: 'default',
      describe: 'which local mesh; several run side by side',
    })
    .command(
      'up',
      'start nodes, agents and control plane, and run manifests on them',
      (y) =>
        y
          .option('file', files)
          .option('nodes', { type: 'number', requiresArg: true, default: 2, describe: 'how many nodes' })
          .option('zones', {
            type: 'string',
            requiresArg: true,
            default: '',
            describe: 'zones of the nodes, in their order: a,b',
          })
          .option('detach', { type: 'boolean', default: false, describe: 'return when all is ready' })
          .option('mesh', {
            type: 'boolean',
            default: true,
            describe: '--no-mesh: plain pods, without agents',
          })
          .option('wait', {
            type: 'boolean',
            default: true,
            describe: '--no-wait: do not wait until pods are ready',
          })
          .option('timeout', {
            type: 'number',
            requiresArg: true,
            default: 120,
            describe: 'seconds to wait so',
          })
          .option('log-level', {
            choices: ['error', 'warn', 'info', 'debug'] as const,
            default: 'info' as const,
          })
          .option('same-node', {
            choices: ['memory', 'carrier', 'mtls'] as const,
            describe: 'how meshed pods of one node speak, as NODEMESH_SAME_NODE',
          })
          .option('agent-env', extraEnv('the agents'))
          .option('identity-env', extraEnv('identity'))
          .option('destination-env', extraEnv('destination')),
      async (args) => {
        await (await actions()).up({
          name: once(args.name, 'name'),
          files: args.file ?? [],
          nodes: once(args.nodes, 'nodes'),
          zones: once(args.zones, 'zones')
            .split(',')
            .filter((zone) => zone !== ''),
          detach: args.detach,
          meshed: args.mesh,
          waitMs: args.wait ? args.timeout * 1000 : undefined,
          logLevel: args.logLevel,
          agentEnv: {
            ...(args.sameNode === undefined ? {} : { NODEMESH_SAME_NODE: once(args.sameNode, 'same-node') }),
            ...environment(args.agentEnv, 'agent-env'),
          },
          identityEnv: environment(args.identityEnv, 'identity-env'),
          destinationEnv: environment(args.destinationEnv, 'destination-env'),
        });
      },
    )
    .command(
      'apply',
      'create or change the objects of manifests',
      (y) => y.option('file', { ...files, demandOption: true }),
      async (args) => (await actions()).apply(args.name, args.file),
    )
    .command(
      'delete [kind] [object]',
      'delete the objects of manifests, or one by kind and name',
      (y) =>
        y
          .positional('kind', { type: 'string', describe: 'pod, svc, deploy, sa or ns' })
          .positional('object', { type: 'string', describe: 'its name' })
          .option('file', files)
          .option('namespace', namespace),
      async (args) => {
        const { kind, object, file } = args;
        if ((file === undefined) === (kind === undefined || object === undefined)) {
          throw new UsageError('name files with -f, or a kind and a name');
        }
        await (await actions()).remove(args.name, file ?? [], args.namespace, kind, object);
      },
    )
    .command(
      'annotate <kind> <object> <annotations..>',
      'set (key=value) or remove (key-) annotations of a namespace or a pod',
      (y) =>
        y
          .positional('kind', { type: 'string', demandOption: true, describe: 'ns or pod' })
          .positional('object', { type: 'string', demandOption: true, describe: 'its name' })
          .positional('annotations', { type: 'string', array: true, demandOption: true })
          .option('namespace', namespace),
      async (args) =>
        (await actions()).annotate(args.name, args.kind, args.namespace, args.object, args.annotations),
    )
    .command(
      'get <kind>',
      'list objects: pods, svc, nodes, deploy, ns, sa',
      (y) =>
        y
          .positional('kind', { type: 'string', demandOption: true })
          .option('namespace', namespace)
          .option('all-namespaces', {
            alias: 'A',
            type: 'boolean',
            default: false,
            describe: 'of all namespaces',
          })
          .option('output', {
            alias: 'o',
            choices: ['table', 'wide', 'json'] as const,
            default: 'table' as const,
          }),
      async (args) =>
        (await actions()).get(
          args.name,
          args.kind,
          args.allNamespaces ? undefined : args.namespace,
          args.output,
        ),
    )
    .command(
      'exec <pod>',
      'run a program in a pod: mesh local exec POD -- CMD…',
      (y) =>
        y
          .positional('pod', { type: 'string', demandOption: true, describe: 'a pod, or deploy/NAME' })
          .option('namespace', namespace)
          .option('container', container),
      async (args) => {
        if (rest.length === 0) throw new UsageError('name the program after "--"');
        await (await actions()).exec(args.name, args.namespace, args.pod, args.container, rest);
      },
    )
    .command(
      'logs <pod>',
      "print what a pod's container wrote",
      (y) =>
        y
          .positional('pod', { type: 'string', demandOption: true, describe: 'a pod, or deploy/NAME' })
          .option('namespace', namespace)
          .option('container', container)
          .option('follow', { alias: 'f', type: 'boolean', default: false, describe: 'go on until Ctrl-C' }),
      async (args) =>
        (await actions()).logs(args.name, args.namespace, args.pod, args.container, args.follow),
    )
    .command(
      'status',
      "the programs of the mesh, a keeper and an agent per node, what is not ready, and each node's self-check; exit code 1 if that found what it cannot mend",
      (y) =>
        y.option('output', { alias: 'o', choices: ['table', 'json'] as const, default: 'table' as const }),
      async (args) => (await actions()).status(args.name, args.output),
    )
    .command(
      'restart-agent <node>',
      "end a node's agent in order, and wait until the next one is ready",
      (y) =>
        y
          .positional('node', nodeName)
          .option('kill', { type: 'boolean', default: false, describe: 'with SIGKILL, as a crash would' })
          .option('wait', waitOption),
      async (args) =>
        (await actions()).actOnAgent(args.name, args.node, args.kill ? 'kill' : 'restart', args.wait),
    )
    .command(
      'upgrade <node>',
      "start a second agent beside a node's agent, which ends when the second is ready",
      (y) => y.positional('node', nodeName).option('wait', waitOption),
      async (args) => (await actions()).actOnAgent(args.name, args.node, 'upgrade', args.wait),
    )
    .command(
      'reboot <node>',
      'a node loses all but its disk, and boots; its pods start again',
      (y) => y.positional('node', nodeName),
      async (args) => (await actions()).reboot(args.name, args.node),
    )
    .command('down', 'remove everything, also after a crash', {}, async (args) =>
      (await actions()).down(args['name'] as string),
    )
    .demandCommand(1, 'Name a command.')
    .strict();
}
