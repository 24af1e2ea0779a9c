// SPDX-License-Identifier: Apache-2.0
// Linkerd's names for errors, in the label `error` of the error counters.

import {
  FAILURE_CONNECT_OTHER,
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_FAILFAST,
  FAILURE_LIMIT,
  FAILURE_LOADSHED,
  FAILURE_RESPONSE_TIMEOUT,
  FAILURE_TLS_HANDSHAKE,
  FAILURE_TLS_WRONG_IDENTITY,
  FAILURE_UPSTREAM_RESET,
} from '../failure.ts';

export function errorLabel(failure: number): string {
  switch (failure) {
    case FAILURE_CONNECT_OTHER:
    case FAILURE_CONNECT_REFUSED:
    case FAILURE_CONNECT_TIMEOUT:
    case FAILURE_TLS_HANDSHAKE:
    case FAILURE_TLS_WRONG_IDENTITY:
    case FAILURE_UPSTREAM_RESET:
      return 'i/o';
    case FAILURE_FAILFAST:
      return 'failfast';
    case FAILURE_LOADSHED:
    case FAILURE_LIMIT:
      return 'loadshed';
    case FAILURE_RESPONSE_TIMEOUT:
      return 'response timeout';
    default:
      return 'unexpected';
  }
}
