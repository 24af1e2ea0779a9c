// SPDX-License-Identifier: Apache-2.0
// New nodes may come with a taint that keeps pods off until the node's agent is ready (docs/install.md). The replica
// that leads takes it off then. It never puts one on.

import type { Clock, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { Leadership } from '#lib/registry/leadership.ts';
import { type Pod, podReady, type Taint } from '#lib/registry/model.ts';
import type { Registry, Watch } from '#lib/registry/registry.ts';

export type RemoveTaint = (node: string, index: number, taint: Taint) => Promise<void>;

export interface StartupTaintOptions {
  readonly key: string;
  readonly registry: Pick<Registry, 'list' | 'watch'>;
  readonly agent: { readonly namespace: string; readonly serviceAccount: string };
  readonly leadership: Leadership;
  readonly removeTaint: RemoveTaint;
  readonly clock: Clock;
  readonly log: Log;
}

const RETRY_MS = 5000;

export function removeStartupTaints(options: StartupTaintOptions): { close(): void } {
  const { key, registry, agent, leadership, removeTaint, clock, log } = options;
  const underWay = new Set<string>();
  let timer: Timer | undefined;
  let closed = false;

  const isAgent = ({ metadata, spec }: Pod): boolean =>
    metadata.namespace === agent.namespace && spec.serviceAccountName === agent.serviceAccount;
  const isServing = (pod: Pod): boolean => podReady(pod) && pod.metadata.deletionTimestamp === '';

  const look = (): void => {
    if (closed || !leadership.leading) return;
    const tainted = registry
      .list('Node')
      .filter(
        ({ spec, metadata }) =>
          !underWay.has(metadata.name) && spec.taints.some((taint) => taint.key === key),
      );
    if (tainted.length === 0) return;
    const served = new Set(
      registry
        .list('Pod')
        .filter((pod) => isAgent(pod) && isServing(pod))
        .map(({ spec }) => spec.nodeName),
    );
    for (const { metadata, spec } of tainted)
      if (served.has(metadata.name)) void take(metadata.name, spec.taints);
  };

  async function take(node: string, taints: readonly Taint[]): Promise<void> {
    const index = taints.findIndex((taint) => taint.key === key);
    const taint = taints[index];
    if (taint === undefined) return;
    underWay.add(node);
    try {
      await removeTaint(node, index, taint);
      log.info({ node, taint: key }, 'the agent of the node is ready, its startup taint is taken off');
    } catch (error) {
      // Also when the taints have changed meanwhile: the watch brings them.
      log.warn({ node, taint: key, reason: errorMessage(error) }, 'the startup taint could not be taken off');
      timer?.cancel();
      timer = clock.after(RETRY_MS, look);
    } finally {
      underWay.delete(node);
    }
  }

  const watches: Watch[] = [
    registry.watch('Node', { added: look, changed: look, removed: () => undefined }),
    registry.watch('Pod', {
      added: (pod) => isAgent(pod) && look(),
      changed: (pod) => isAgent(pod) && look(),
      removed: () => undefined,
    }),
  ];
  leadership.onChange(look);
  return {
    close() {
      closed = true;
      timer?.cancel();
      for (const watch of watches) watch.close();
    },
  };
}
