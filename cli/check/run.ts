// SPDX-License-Identifier: Apache-2.0
// Runs `mesh check`: flags, the cluster, the output. Exit code 1 unless nothing but warnings was found.

import { setTimeout as sleep } from 'node:timers/promises';
import { asDurationMs } from '#lib/core/config.ts';
import { errorMessage } from '#lib/core/errors.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import { namespaceOf } from '../install/actions.ts';
import { connect } from '../install/connect.ts';
import { Refusal } from '../install/refusal.ts';
import { ExitCode } from '../outcome.ts';
import { categoriesOf, type CheckSet } from './categories.ts';
import { runChecks } from './check.ts';
import { kubernetesApi } from './cluster-checks.ts';
import { type CheckOutput, checkOutputs, createPrinter } from './print.ts';

export interface CheckFlags {
  readonly linkerdNamespace: string;
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  readonly as?: string | undefined;
  readonly asGroup?: readonly string[] | undefined;
  readonly pre: boolean;
  readonly crds: boolean;
  readonly proxy: boolean;
  readonly namespace: string;
  readonly output: string;
  readonly wait: string;
  readonly expectedVersion: string;
}

export async function runCheck(flags: CheckFlags): Promise<void> {
  const set = setOf(flags);
  const waitMs = waitOf(flags.wait);
  const output = outputOf(flags.output);
  const version = ownVersion();
  const printer = createPrinter(output, process.stdout.isTTY, (text) => void process.stdout.write(text));
  let good = false;
  const { kubeconfig, context, as, asGroup, expectedVersion, namespace: only } = flags;
  const access = { kubeconfig, context, as, asGroups: asGroup ?? [], version };
  const cluster = await connect(access).catch((error: unknown) => {
    const check = { text: 'can initialize the client', anchor: 'k8s-api' };
    printer.tell({ category: kubernetesApi.name, check, result: 'error', error: errorMessage(error) });
    return undefined;
  });
  if (cluster !== undefined) {
    try {
      const namespace = namespaceOf(flags.linkerdNamespace);
      good = await runChecks(
        categoriesOf(set),
        { cluster, namespace, only, version, expectedVersion, wallMs: Date.now },
        { waitMs, nowMs: () => performance.now(), sleep, tell: (result) => printer.tell(result) },
      );
    } finally {
      cluster.close();
    }
  }
  printer.end(good);
  if (!good) throw new ExitCode(1);
}

function setOf({ pre, crds, proxy }: CheckFlags): CheckSet {
  const chosen = [pre ? 'pre' : '', proxy ? 'proxy' : '', crds ? 'crds' : ''].filter((set) => set !== '');
  if (chosen.length > 1) throw refused(`--${chosen.join(' and --')} flags are mutually exclusive`);
  return (chosen[0] as CheckSet | undefined) ?? 'default';
}

function waitOf(text: string): number {
  try {
    return asDurationMs(text);
  } catch (error) {
    throw refused(`--wait ${text}: ${errorMessage(error)}`);
  }
}

function outputOf(text: string): CheckOutput {
  const output = checkOutputs.find((one) => one === text);
  if (output === undefined)
    throw refused(
      `Invalid output type '${text}'. Supported output types are: ${[...checkOutputs].sort().join(', ')}`,
    );
  return output;
}

const refused = (message: string): Refusal =>
  new Refusal(`Validation error when executing check command: ${message}`);
