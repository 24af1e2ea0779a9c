// SPDX-License-Identifier: Apache-2.0
// Linkerd's names for errors, in the label `error` of the error counters.

import {
  FAILURE_ATTEMPT_TIMEOUT,
  FAILURE_BAD_REQUEST,
  FAILURE_CLIENT_GONE,
  FAILURE_CONNECT_OTHER,
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_FAILFAST,
  FAILURE_HEAD_TOO_LARGE,
  FAILURE_HTTP_VERSION,
  FAILURE_IDENTITY_REQUIRED,
  FAILURE_LIMIT,
  FAILURE_LOADSHED,
  FAILURE_NO_AUTHORITY,
  FAILURE_POLICY,
  FAILURE_RESPONSE_TIMEOUT,
  FAILURE_ROUTE,
  FAILURE_TLS_HANDSHAKE,
  FAILURE_TLS_WRONG_IDENTITY,
  FAILURE_UPSTREAM_RESET,
  FAILURE_URI_TOO_LONG,
} from '../failure.ts';

/** What the proxy does not count as an error of its own: what clients did wrong, and what policies and routes say. */
export function isOfClient(failure: number): boolean {
  switch (failure) {
    case FAILURE_POLICY:
    case FAILURE_BAD_REQUEST:
    case FAILURE_HEAD_TOO_LARGE:
    case FAILURE_URI_TOO_LONG:
    case FAILURE_NO_AUTHORITY:
    case FAILURE_HTTP_VERSION:
    case FAILURE_CLIENT_GONE:
    case FAILURE_ROUTE:
      return true;
    default:
      return false;
  }
}

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
    case FAILURE_IDENTITY_REQUIRED:
      return 'identity required';
    case FAILURE_ATTEMPT_TIMEOUT:
    case FAILURE_RESPONSE_TIMEOUT:
      return 'response timeout';
    default:
      return 'unexpected';
  }
}
