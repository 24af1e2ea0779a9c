// SPDX-License-Identifier: Apache-2.0

/** What Linkerd counts as failures: UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS. */
export const grpcFailures: ReadonlySet<number> = new Set([2, 4, 7, 13, 14, 15]);
