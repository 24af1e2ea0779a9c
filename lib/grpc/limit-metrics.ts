// SPDX-License-Identifier: Apache-2.0
// Counts what clients of a gRPC server run into.

import { Counter, type Registry } from 'prom-client';
import { type GrpcLimit, grpcLimits } from './server-connection.ts';

/** Returns what to give a server as `onLimit`. */
export function countLimits(register: Registry): (limit: GrpcLimit) => void {
  const reached = new Counter({
    name: 'nodemesh_grpc_limits_total',
    help: 'Limits of the gRPC server that clients have come to.',
    labelNames: ['limit'],
    registers: [register],
  });
  for (const limit of grpcLimits) reached.inc({ limit }, 0);
  return (limit) => reached.inc({ limit });
}
