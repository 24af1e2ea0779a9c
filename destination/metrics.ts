// SPDX-License-Identifier: Apache-2.0
// What destination counts.

import type { CallListener, ServerCall } from '#lib/grpc/call.ts';
import { countLimits } from '#lib/grpc/limit-metrics.ts';
import type { GrpcLimit } from '#lib/grpc/server-connection.ts';
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client';

export interface DestinationMetrics {
  /** Counts the stream until it ends. */
  streamOpened(method: string, stream: Pick<ServerCall, 'listen'>): void;
  streamRefused(method: string, code: string | undefined): void;
  reportTaken(outcome: string): void;
  /** A client of the gRPC server has come to a limit. */
  readonly limitReached: (limit: GrpcLimit) => void;
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
  /** By method: thousands of streams have the same. */
  const listeners = new Map<string, CallListener>();
  return {
    streamOpened(method, stream) {
      streams.inc({ method });
      const known = listeners.get(method) ?? { ended: () => streams.dec({ method }) };
      listeners.set(method, known);
      stream.listen(known);
    },
    streamRefused: (method, code) => refused.inc({ method, code: code ?? 'UNKNOWN' }),
    limitReached: countLimits(register),
    reportTaken: (outcome) => reports.inc({ outcome }),
    contentType: register.contentType,
    text: () => register.metrics(),
  };
}
