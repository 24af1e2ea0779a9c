// SPDX-License-Identifier: Apache-2.0
// Calls kubectl as the administrator of a cluster, in the control plane's network namespace.

import { join } from 'node:path';
import {
  type CommandOptions,
  type CommandResult,
  inNetns,
  runChecked,
  runCommand,
} from '../../local/command.ts';
import type { ClusterLayout } from './layout.ts';

const TIMEOUT_MS = 300_000;

export const kubectlArgv = (layout: ClusterLayout, args: readonly string[]): string[] =>
  inNetns(layout.control.netns, [
    join(layout.programs, 'kubectl'),
    `--kubeconfig=${layout.kubeconfig}`,
    ...args,
  ]);

/** Its output; it must succeed. */
export const kubectl = (
  layout: ClusterLayout,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> => runChecked(kubectlArgv(layout, args), { timeoutMs: TIMEOUT_MS, ...options });

export const tryKubectl = (
  layout: ClusterLayout,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> => runCommand(kubectlArgv(layout, args), { timeoutMs: TIMEOUT_MS, ...options });
