// SPDX-License-Identifier: Apache-2.0
// Linkerd's families of a proxy's certificate (control_identity_cert_…), for each pod of the node: pods of one account
// share a certificate, and its figures.

import { type MetricFamily, renderLabels } from '#lib/metrics/model.ts';
import type { MetricRegistry, Sample } from '#lib/metrics/registry.ts';
import type { Certificates } from './certificates.ts';
import type { Enrolment, PodView } from './enrolment-model.ts';

export interface CertificateMetricsSources {
  readonly enrolment: Pick<Enrolment, 'pods'>;
  readonly certificates: Pick<Certificates, 'get' | 'refreshes'>;
  /** Label control_plane_ns. */
  readonly controlPlaneNamespace: string;
}

const NAME = 'control_identity_cert_';

export function certificateMetrics(
  registry: Pick<MetricRegistry, 'collect'>,
  sources: CertificateMetricsSources,
): void {
  const { certificates } = sources;
  const each = (
    family: MetricFamily,
    read: (identity: string) => readonly (readonly [own: Readonly<Record<string, string>>, value: number])[],
  ): void =>
    registry.collect(family, () =>
      sources.enrolment.pods.flatMap((pod): Sample[] =>
        pod.identity === ''
          ? []
          : read(pod.identity).map(([own, value]) => ({
              labels: renderLabels({ ...own, ...labelsOf(pod, sources.controlPlaneNamespace) }),
              owner: pod.uid,
              value,
            })),
      ),
    );
  each(
    {
      name: `${NAME}expiration_timestamp_seconds`,
      type: 'gauge',
      help: "When a pod's certificate ends, in seconds since the epoch.",
    },
    (identity) => {
      const certificate = certificates.get(identity);
      return certificate === undefined ? [] : [[{}, certificate.notAfterMs / 1000]];
    },
  );
  each(
    {
      name: `${NAME}refresh_timestamp_seconds`,
      type: 'gauge',
      help: "When a pod's certificate came, in seconds since the epoch.",
    },
    (identity) => {
      const lastAtMs = certificates.refreshes(identity)?.lastAtMs ?? 0;
      return lastAtMs === 0 ? [] : [[{}, lastAtMs / 1000]];
    },
  );
  each(
    {
      name: `${NAME}refreshes_total`,
      type: 'counter',
      help: "How often a pod's certificate was asked for, by result.",
    },
    (identity) => {
      const refreshes = certificates.refreshes(identity);
      if (refreshes === undefined) return [];
      return [
        [{ result: 'ok' }, refreshes.ok],
        [{ result: 'error' }, refreshes.failed],
      ];
    },
  );
}

/** As on every series of the pod. */
function labelsOf(pod: PodView, controlPlaneNamespace: string): Readonly<Record<string, string>> {
  return {
    namespace: pod.namespace,
    pod: pod.name,
    ...(pod.ownerKind === '' ? {} : { [pod.ownerKind]: pod.ownerName }),
    control_plane_ns: controlPlaneNamespace,
    workload_ns: pod.namespace,
  };
}
