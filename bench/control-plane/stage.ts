// SPDX-License-Identifier: Apache-2.0
// Where the scale benchmark's cluster lives: a folder of manifests or a Kubernetes API server.

import type { Population, ScalePod } from './population.ts';

export type SourceDescription =
  | { readonly kind: 'folder'; readonly folder: string; readonly tokenKeyPem: string }
  | { readonly kind: 'kubernetes'; readonly kubeconfig: string; readonly socket: string };

export interface Stage {
  readonly source: SourceDescription;
  make(population: Population): Promise<void>;
  /** Of the agent's pod on the node, for the node stream. */
  agentToken(index: number): Promise<string>;
  setReady(pod: ScalePod, ready: boolean): Promise<void>;
  close(): Promise<void>;
}

/** Runs `run` for all, so many at a time. */
export async function inParallel<T>(
  items: readonly T[],
  atOnce: number,
  run: (item: T) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const work = async (): Promise<void> => {
    for (let item = items[next++]; item !== undefined; item = items[next++]) await run(item);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}
