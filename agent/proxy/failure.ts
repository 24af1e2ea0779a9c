// SPDX-License-Identifier: Apache-2.0
// Operating errors of the data path as small integers, with what each client is told.
// HTTP answers follow Linkerd's table: status, `l5d-proxy-error`, and whether the connection closes.

export const FAILURE_NONE = 0;
export const FAILURE_CONNECT_REFUSED = 1;
export const FAILURE_CONNECT_TIMEOUT = 2;
export const FAILURE_CONNECT_OTHER = 3;
export const FAILURE_TLS_HANDSHAKE = 4;
export const FAILURE_TLS_WRONG_IDENTITY = 5;
export const FAILURE_NO_CERTIFICATE = 6;
export const FAILURE_UPSTREAM_RESET = 7;
export const FAILURE_UPSTREAM_PROTOCOL = 8;
export const FAILURE_FAILFAST = 9;
export const FAILURE_LOADSHED = 10;
export const FAILURE_DISCOVERY = 11;
export const FAILURE_POLICY = 12;
export const FAILURE_BAD_REQUEST = 13;
export const FAILURE_HEAD_TOO_LARGE = 14;
export const FAILURE_URI_TOO_LONG = 15;
export const FAILURE_LIMIT = 16;
export const FAILURE_NO_AUTHORITY = 17;
export const FAILURE_RESPONSE_TIMEOUT = 18;
export const FAILURE_HTTP_VERSION = 19;
/** The client went away before the response's end: counted, never answered. */
export const FAILURE_CLIENT_GONE = 20;
/** The request asks for an endpoint with an identity that this one has not. */
export const FAILURE_IDENTITY_REQUIRED = 21;
/** A route answers, with what its filters say or because there is none: the exchange has the answer. */
export const FAILURE_ROUTE = 22;
/** An attempt that was not the last took too long; told only when there is nobody for another one. */
export const FAILURE_ATTEMPT_TIMEOUT = 23;

/** Whether the endpoint's side failed, not the client's, nor the time that the client's side allows. */
export function isBehind(failure: number): boolean {
  switch (failure) {
    case FAILURE_BAD_REQUEST:
    case FAILURE_HEAD_TOO_LARGE:
    case FAILURE_RESPONSE_TIMEOUT:
    case FAILURE_CLIENT_GONE:
      return false;
    default:
      return true;
  }
}

export interface Failure {
  /** Name in the label `error` of the error counters and in logs. */
  readonly name: string;
  readonly status: number;
  /** Value of `l5d-proxy-error`; empty where the answer carries none (errors of the HTTP library in Linkerd). */
  readonly message: string;
  /** Whether the client's connection is closed after the answer. */
  readonly closes: boolean;
}

/** Indexed by the integers above. */
export const failures: readonly Failure[] = [
  { name: 'none', status: 200, message: '', closes: false },
  { name: 'connect_refused', status: 502, message: 'connection refused by the endpoint', closes: true },
  { name: 'connect_timeout', status: 504, message: 'connect timed out', closes: true },
  { name: 'connect_failed', status: 502, message: 'connection to the endpoint failed', closes: true },
  { name: 'tls_handshake', status: 502, message: 'TLS handshake with the endpoint failed', closes: true },
  { name: 'tls_identity', status: 502, message: 'certificate does not match TLS identity', closes: true },
  { name: 'no_certificate', status: 503, message: 'the workload has no certificate yet', closes: true },
  { name: 'upstream_reset', status: 502, message: 'connection closed before the response', closes: true },
  { name: 'upstream_protocol', status: 502, message: 'invalid response from the endpoint', closes: true },
  { name: 'failfast', status: 504, message: 'service in fail-fast', closes: true },
  { name: 'loadshed', status: 503, message: 'service unavailable', closes: true },
  { name: 'discovery', status: 503, message: 'destination cannot be resolved now', closes: true },
  { name: 'policy', status: 403, message: 'client is not authorized', closes: false },
  { name: 'bad_request', status: 400, message: '', closes: true },
  { name: 'head_too_large', status: 431, message: '', closes: true },
  { name: 'uri_too_long', status: 414, message: '', closes: true },
  { name: 'limit', status: 503, message: 'a limit of the pod is reached', closes: true },
  { name: 'no_authority', status: 400, message: 'no authority could be determined', closes: true },
  { name: 'response_timeout', status: 504, message: 'timed out waiting for the response', closes: false },
  { name: 'http_version', status: 505, message: '', closes: true },
  { name: 'client_gone', status: 499, message: '', closes: true },
  {
    name: 'identity_required',
    status: 502,
    message: 'the endpoint has not the required identity',
    closes: true,
  },
  { name: 'route', status: 404, message: '', closes: false },
  {
    name: 'attempt_timeout',
    status: 504,
    message: 'timed out waiting for the response headers',
    closes: false,
  },
];

const ofEndpoint: ReadonlySet<number> = new Set([
  FAILURE_CONNECT_REFUSED,
  FAILURE_CONNECT_TIMEOUT,
  FAILURE_CONNECT_OTHER,
  FAILURE_TLS_HANDSHAKE,
  FAILURE_TLS_WRONG_IDENTITY,
  FAILURE_UPSTREAM_RESET,
  FAILURE_UPSTREAM_PROTOCOL,
]);

/** Whether it happened between us and an endpoint: another one, or a second try, may do better. */
export const isOfEndpoint = (failure: number): boolean => ofEndpoint.has(failure);
