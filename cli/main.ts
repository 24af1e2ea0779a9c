// SPDX-License-Identifier: Apache-2.0
// The `mesh` command: reads the command line and calls what it names. Exit code 1 for failures; for wrong usage 2 in
// `mesh local` and 1 elsewhere, as Linkerd has it; else that of the command. What a command does is loaded only when
// it is called.

import yargs from 'yargs';
import { errorMessage } from '#lib/core/errors.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { checkCommand } from './check/commands.ts';
import { installCommands } from './install/commands.ts';
import { Refusal } from './install/refusal.ts';
import { localCommands } from './local-commands.ts';
import { ExitCode, UsageError } from './outcome.ts';
import { trafficCommands } from './traffic/commands.ts';

/** What follows `--` is for the program that `exec` runs, not for us. */
function splitArguments(argv: readonly string[]): { own: string[]; rest: string[] } {
  const dashes = argv.indexOf('--');
  const own = dashes < 0 ? argv : argv.slice(0, dashes);
  return {
    // yargs takes a lone dash for an option.
    own: own.map((text, index) =>
      text === '-' && /^(-f|--file)$/.test(own[index - 1] ?? '') ? '/dev/stdin' : text,
    ),
    rest: dashes < 0 ? [] : argv.slice(dashes + 1),
  };
}

const { own, rest } = splitArguments(process.argv.slice(2));

const parser = trafficCommands(checkCommand(installCommands(yargs(own))))
  .scriptName('mesh')
  .usage('$0 <command>\n\nA service mesh without sidecars.')
  .command('local', 'nodes and pods on this machine, without a cluster', (local) =>
    localCommands(local, rest),
  )
  .command('version', 'the version of this program', {}, () => {
    process.stdout.write(`${ownVersion()}\n`);
  })
  .demandCommand(1, 'Name a command.')
  .strict()
  .version(false)
  .help()
  .alias('help', 'h')
  .wrap(Math.min(110, process.stdout.columns ?? 110))
  .recommendCommands()
  .exitProcess(false)
  .fail((message, error) => {
    // yargs gives a message or an error of its own for wrong usage, and the error of a command that failed.
    throw error instanceof Error && error.name !== 'YError' ? error : new UsageError(message);
  });

try {
  await parser.parseAsync();
} catch (error) {
  if (error instanceof ExitCode) {
    process.exitCode = error.code;
  } else if (error instanceof Refusal) {
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  } else {
    process.stderr.write(`mesh: ${errorMessage(error)}\n`);
    if (error instanceof UsageError) process.stderr.write('"mesh --help" tells what there is.\n');
    process.exitCode = error instanceof UsageError && own[0] === 'local' ? 2 : 1;
  }
}
