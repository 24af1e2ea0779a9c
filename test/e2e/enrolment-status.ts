// SPDX-License-Identifier: Apache-2.0
// What stands on a pod about its enrolment, as the folder registry keeps it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName } from '#lib/core/errors.ts';
import type { LocalMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';

export interface EnrolmentStatus {
  readonly condition?: { readonly status: string; readonly reason: string; readonly message: string };
  readonly events: readonly {
    readonly type: string;
    readonly reason: string;
    readonly message: string;
    readonly count: number;
  }[];
}

export async function enrolmentStatus(
  mesh: LocalMesh,
  name: string,
  namespace: string,
): Promise<EnrolmentStatus> {
  const { metadata } = await mesh.pod(name, namespace);
  try {
    const file = join(mesh.layout.registryDir, '.status', `${metadata.uid}.json`);
    return JSON.parse(readFileSync(file, 'utf8')) as EnrolmentStatus;
  } catch (error) {
    if (errnoName(error) === 'ENOENT') return { events: [] };
    throw error;
  }
}

export const eventCount = ({ events }: EnrolmentStatus, reason: string): number =>
  events.filter((event) => event.reason === reason).reduce((sum, { count }) => sum + count, 0);

/** Waits until the condition of every pod has this reason. */
export async function untilReason(
  mesh: LocalMesh,
  namespace: string,
  pods: readonly string[],
  reason: string,
  timeoutMs = 60_000,
): Promise<void> {
  for (const name of pods) {
    await until(`${namespace}/${name} is ${reason}`, timeoutMs, async () => {
      const { condition } = await enrolmentStatus(mesh, name, namespace);
      return condition?.reason === reason ? true : undefined;
    });
  }
}
