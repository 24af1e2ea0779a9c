// SPDX-License-Identifier: Apache-2.0
// The command lines of `mesh stat` and `mesh edges`. What they do is loaded when they are called.

import type { Argv } from 'yargs';
import { accessOptions } from '../install/commands.ts';
import type { StatFlags, TrafficFlags } from './flags.ts';

const text = { type: 'string', requiresArg: true } as const;

const trafficOptions = (parser: Argv): Argv =>
  accessOptions(parser)
    .option('namespace', { ...text, alias: 'n', describe: "else that of the kubeconfig's context" })
    .option('all-namespaces', { alias: 'A', type: 'boolean', default: false, describe: 'all namespaces' })
    .option('output', { ...text, alias: 'o', default: 'table', describe: 'table, wide or json' })
    .option('prometheus-url', {
      ...text,
      alias: 'prometheusURL',
      describe:
        'a URL, or namespace/service:port in the cluster; else what the cluster says (docs/monitoring.md)',
    });

export function trafficCommands(parser: Argv): Argv {
  return parser
    .command(
      'stat [resources..]',
      'requests, failures, latencies and connections of workloads, from Prometheus',
      (y) =>
        trafficOptions(y)
          .usage(
            '$0 stat TYPE [NAME..] | TYPE/NAME..\n\nTYPE: deploy, sts, ds, job, rs, rc, po, svc, ns or all',
          )
          .positional('resources', {
            type: 'string',
            array: true,
            default: [],
            describe: 'deploy, deploy/web, …',
          })
          .option('time-window', {
            ...text,
            alias: 't',
            default: '1m',
            describe: 'how far back; at least 15s',
          })
          .option('to', { ...text, describe: 'only what they send to this: TYPE or TYPE/NAME' })
          .option('to-namespace', { ...text, describe: 'the namespace of --to' })
          .option('from', { ...text, describe: 'only what this sends to them: TYPE or TYPE/NAME' })
          .option('from-namespace', { ...text, describe: 'the namespace of --from' })
          .option('selector', { ...text, alias: 'l', describe: 'only resources with these labels' })
          .option('unmeshed', {
            type: 'boolean',
            default: false,
            describe: 'also what has no pod in the mesh',
          }),
      async (args) => (await import('./run.ts')).runStat(args as unknown as StatFlags),
    )
    .command(
      'edges [resources..]',
      'which workloads are connected to which, and how that is secured, from Prometheus',
      (y) =>
        trafficOptions(y)
          .usage('$0 edges TYPE\n\nTYPE: deploy, sts, ds, job, rs, rc, po or ns')
          .positional('resources', { type: 'string', array: true, default: [], describe: 'deploy, po, …' }),
      async (args) => (await import('./run.ts')).runEdges(args as unknown as TrafficFlags),
    );
}
