// SPDX-License-Identifier: Apache-2.0
// The command line of `mesh check`.

import type { Argv } from 'yargs';
import { accessOptions } from '../install/commands.ts';
import type { CheckFlags } from './run.ts';

export const checkCommand = (parser: Argv): Argv =>
  parser.command(
    'check',
    'look whether the cluster, the control plane and the nodes are as they should be',
    (y) =>
      accessOptions(y)
        .usage('$0 check [--pre | --crds | --proxy]')
        .option('pre', { type: 'boolean', default: false, describe: 'before an installation' })
        .option('crds', { type: 'boolean', default: false, describe: 'only the CRDs' })
        .option('proxy', { type: 'boolean', default: false, describe: 'the pods in the mesh too' })
        .option('namespace', {
          alias: 'n',
          type: 'string',
          requiresArg: true,
          default: '',
          describe: 'with --proxy: only pods of this namespace',
        })
        .option('output', {
          alias: 'o',
          type: 'string',
          requiresArg: true,
          default: 'table',
          describe: 'table, json or short',
        })
        .option('wait', {
          type: 'string',
          requiresArg: true,
          default: '5m0s',
          describe: 'how long to wait for what may come right by itself',
        })
        .option('expected-version', {
          type: 'string',
          requiresArg: true,
          default: '',
          describe: 'the newest version there is: no server is asked for it',
        }),
    async (args) => (await import('./run.ts')).runCheck(args as unknown as CheckFlags),
  );
