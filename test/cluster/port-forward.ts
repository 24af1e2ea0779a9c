// SPDX-License-Identifier: Apache-2.0
// kubectl port-forward to a pod.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Cluster, PodPlace } from './cluster.ts';

export interface Forward {
  /** On loopback of the control plane's machine: kubectl listens in its network namespace. */
  readonly port: string;
  close(): Promise<void>;
}

export async function forwardPort(cluster: Cluster, place: PodPlace, port: number): Promise<Forward> {
  const [program = '', ...args] = cluster.kubectlArgv([
    'port-forward',
    `--namespace=${place.namespace}`,
    place.pod,
    `:${port}`,
  ]);
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit');
  let said = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
  const close = async (): Promise<void> => {
    child.kill();
    await ended;
  };
  try {
    const chosen = await cluster.waitFor('the forwarded port', () =>
      Promise.resolve(/127\.0\.0\.1:(\d+) ->/.exec(said)?.[1]),
    );
    return { port: chosen, close };
  } catch (error) {
    await close();
    throw error;
  }
}
