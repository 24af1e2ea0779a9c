// SPDX-License-Identifier: Apache-2.0
// Errors of gRPC calls: a status code and a message that says what and who.

import { Metadata, type StatusObject, status } from '@grpc/grpc-js';

export class CallError extends Error implements StatusObject {
  readonly code: status;
  readonly details: string;
  readonly metadata = new Metadata();

  constructor(code: status, details: string) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

export { status };
