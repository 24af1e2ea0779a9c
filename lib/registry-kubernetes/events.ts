// SPDX-License-Identifier: Apache-2.0
// Events of Kubernetes about an object. The same Event has the same name wherever it is written, so that several
// replicas, or one after a restart, make one of it; what is said again is counted on it.

import { createHash } from 'node:crypto';
import type { Clock } from '#lib/core/clock.ts';
import type { PodEvent } from '#lib/registry/registry.ts';
import type { KubernetesApi } from './api-client.ts';
import { ApiFailure } from './api-failure.ts';

export interface EventSubject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid?: string;
}

export interface EventWriterOptions {
  readonly api: KubernetesApi;
  readonly clock: Clock;
  /** Which part of the mesh says it. */
  readonly component: string;
}

const MESSAGE_LENGTH_MAX = 1024;

/** Writes it; `again`: something happened since it was last said, so that it is counted once more. */
export async function writeEvent(
  options: EventWriterOptions,
  subject: EventSubject,
  event: PodEvent,
  again: boolean,
): Promise<void> {
  const { api, clock, component } = options;
  const now = `${new Date(clock.wallMs()).toISOString().slice(0, 19)}Z`;
  const name = eventName(subject, event);
  const collection = `/api/v1/namespaces/${subject.namespace}/events`;
  try {
    await api.call({
      method: 'POST',
      path: collection,
      body: {
        apiVersion: 'v1',
        kind: 'Event',
        metadata: { namespace: subject.namespace, name },
        involvedObject: subject,
        type: event.type,
        reason: event.reason,
        message: event.message.slice(0, MESSAGE_LENGTH_MAX),
        source: { component },
        reportingComponent: component,
        firstTimestamp: now,
        lastTimestamp: now,
        count: 1,
      },
    });
  } catch (error) {
    if (!(error instanceof ApiFailure) || error.reason !== 'AlreadyExists') throw error;
    if (again) await countAgain(api, `${collection}/${name}`, now);
  }
}

async function countAgain(api: KubernetesApi, path: string, now: string): Promise<void> {
  const known = (await api.call({ path })) as { readonly count?: unknown };
  const count = (typeof known.count === 'number' ? known.count : 1) + 1;
  await api.call({
    method: 'PATCH',
    path,
    contentType: 'application/merge-patch+json',
    body: { count, lastTimestamp: now },
  });
}

function eventName(subject: EventSubject, { type, reason, message }: PodEvent): string {
  const text = [subject.kind, subject.uid ?? '', type, reason, message].join('\n');
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 16);
  return `${subject.name.slice(0, 230)}.${hash}`;
}
