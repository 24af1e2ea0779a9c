// SPDX-License-Identifier: Apache-2.0
// Tells somebody who counts of each call of a gRPC client: when it begins, its first answer, its end.

import { InterceptingCall, type Interceptor } from '@grpc/grpc-js';

export interface CountedCall {
  /** A message of the answer; the first one counts. */
  answered(): void;
  /** `reached`: the server said so, and not this side. */
  ended(code: number, reached: boolean): void;
}

export function countCalls(begin: () => CountedCall): Interceptor {
  return (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start(metadata, _listener, next) {
        const call = begin();
        let reached = false;
        next(metadata, {
          onReceiveMetadata(received, pass) {
            reached = true;
            pass(received);
          },
          onReceiveMessage(message: unknown, pass) {
            call.answered();
            pass(message);
          },
          onReceiveStatus(status, pass) {
            call.ended(status.code, reached);
            pass(status);
          },
        });
      },
    });
}
