// SPDX-License-Identifier: Apache-2.0
// How a request, or an attempt at it, ended: what everybody is told who counts it.

export interface RequestEnd {
  readonly atMs: number;
  /** Of the answer, also of one that the proxy wrote in the endpoint's place. */
  readonly status: number;
  /** FAILURE_NONE: the endpoint answered, and all of it came. */
  readonly failure: number;
  /** GRPC_NONE: no gRPC request. */
  readonly grpcStatus: number;
  /** With what the endpoint reset it, or NOT_RESET. */
  readonly reset: number;
  /** Whether the answer's head was passed on. */
  readonly started: boolean;
}
