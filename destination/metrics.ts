// SPDX-License-Identifier: Apache-2.0
// What destination counts.

import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';

export interface DestinationMetrics {
  /** Returns what to call when the stream has ended. */
  streamOpened(method: string): () => void;
  streamRefused(method: string, code: string | undefined): void;
  reportTaken(outcome: string): void;
  readonly contentType: string;
  text(): Promise<string>;
}

export function createDestinationMetrics(register = new Registry()): DestinationMetrics {
  collectDefaultMetrics({ register });
  const registers = [register];
  const streams = new Gauge({
    name: 'nodemesh_destination_streams',
    help: 'Open streams by method.',
    labelNames: ['method'],
    registers,
  });
  const refused = new Counter({
    name: 'nodemesh_destination_refused_total',
    help: 'Calls that ended with an error, by method and gRPC status.',
    labelNames: ['method', 'code'],
    registers,
  });
  const reports = new Counter({
    name: 'nodemesh_destination_enrolment_reports_total',
    help: 'Reports of agents by what became of them: written, kept, stale or refused.',
    labelNames: ['outcome'],
    registers,
  });
  return {
    streamOpened(method) {
      streams.inc({ method });
      return () => streams.dec({ method });
    },
    streamRefused: (method, code) => refused.inc({ method, code: code ?? 'UNKNOWN' }),
    reportTaken: (outcome) => reports.inc({ outcome }),
    contentType: register.contentType,
    text: () => register.metrics(),
  };
}
