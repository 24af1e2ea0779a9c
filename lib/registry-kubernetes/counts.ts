// SPDX-License-Identifier: Apache-2.0
// What the registry on Kubernetes counts.

import { Counter, Gauge, type Registry as MetricRegistry } from 'prom-client';
import type { Kind } from '#lib/registry/model.ts';
import type { ApiFailure } from './api-failure.ts';
import type { ReflectorCounts } from './reflector.ts';

export interface KubernetesCounts {
  of(kind: string): ReflectorCounts;
  objects(kind: Kind, count: number): void;
  unreadable(kind: Kind): void;
  wrote(what: 'condition' | 'event', outcome: 'written' | 'gone' | 'failed' | 'dropped'): void;
  reviewed(result: 'authentic' | 'refused' | 'failed'): void;
}

/** Also says which metrics there are, for the reference. */
export function createKubernetesCounts(register: MetricRegistry): KubernetesCounts {
  const registers = [register];
  const counter = <const Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter({ name, help, labelNames, registers });
  const lists = counter(
    'nodemesh_kubernetes_lists_total',
    'Whole lists taken from the Kubernetes API, by kind.',
    'kind',
  );
  const relists = counter(
    'nodemesh_kubernetes_relists_total',
    'Lists taken again because a watch could not be resumed, by kind.',
    'kind',
  );
  const watches = counter(
    'nodemesh_kubernetes_watches_total',
    'Watches begun or resumed, by kind: each lasts minutes.',
    'kind',
  );
  const errors = counter(
    'nodemesh_kubernetes_errors_total',
    'Lists and watches that failed, by kind, call and HTTP status (0: no whole answer).',
    'kind',
    'call',
    'status',
  );
  const pauses = counter(
    'nodemesh_kubernetes_pause_seconds_total',
    'How long lists and watches waited after failures, by kind.',
    'kind',
  );
  const objects = new Gauge({
    name: 'nodemesh_kubernetes_objects',
    help: 'Objects held in memory, by kind.',
    labelNames: ['kind'],
    registers,
  });
  const unreadable = counter(
    'nodemesh_kubernetes_unreadable_total',
    'Objects of which something could not be read, by kind: the last good state stays.',
    'kind',
  );
  const writes = counter(
    'nodemesh_kubernetes_status_writes_total',
    'Conditions and Events written to the Kubernetes API, by what became of them: written, gone (with its object), failed or dropped (too many).',
    'what',
    'outcome',
  );
  const reviews = counter(
    'nodemesh_kubernetes_token_reviews_total',
    'TokenReviews asked of the Kubernetes API, by result: authentic, refused or failed.',
    'result',
  );
  for (const result of ['authentic', 'refused', 'failed']) reviews.inc({ result }, 0);
  return {
    of(kind) {
      for (const one of [lists, relists, watches, pauses]) one.inc({ kind }, 0);
      return {
        listed: () => lists.inc({ kind }),
        watched: () => watches.inc({ kind }),
        relisted: () => relists.inc({ kind }),
        failed: (call, failure: ApiFailure) => errors.inc({ kind, call, status: String(failure.status) }),
        pausing: (pauseMs) => pauses.inc({ kind }, pauseMs / 1000),
      };
    },
    objects: (kind, count) => objects.set({ kind }, count),
    unreadable: (kind) => unreadable.inc({ kind }),
    wrote: (what, outcome) => writes.inc({ what, outcome }),
    reviewed: (result) => reviews.inc({ result }),
  };
}
