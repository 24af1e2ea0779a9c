// SPDX-License-Identifier: Apache-2.0
// Errors of gRPC calls: a status code and a message that says what and who.

export { CallError, status } from '#lib/grpc/status.ts';
