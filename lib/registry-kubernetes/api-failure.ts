// SPDX-License-Identifier: Apache-2.0
// A call of the Kubernetes API that failed: the HTTP status and the reason that the server gave, or 0 if there was
// no whole answer.

import { errorMessage } from '#lib/core/errors.ts';

export interface ApiStatus {
  readonly reason?: unknown;
  readonly message?: unknown;
  readonly details?: { readonly retryAfterSeconds?: unknown };
}

export class ApiFailure extends Error {
  override readonly name = 'ApiFailure';
  /** HTTP status; 0: no answer, or one that cannot be read. */
  readonly status: number;
  /** Kubernetes' word, such as Expired or AlreadyExists; may be empty. */
  readonly reason: string;
  readonly retryAfterMs: number;

  constructor(status: number, reason: string, message: string, retryAfterMs = 0) {
    super(message);
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }

  /** What was asked for has been forgotten by the server: it must be listed anew. */
  get expired(): boolean {
    return this.status === 410;
  }

  /** Nobody answered, or a server that cannot yet or does not want to: what was asked is not at fault. */
  get away(): boolean {
    const unheard = this.status === 0 && ['', 'Timeout', 'Silent'].includes(this.reason);
    return unheard || [401, 403, 429, 503].includes(this.status);
  }
}

/** From the Status object of an answer, or of an ERROR in a watch. */
export function failureOf(
  status: number,
  body: unknown,
  call: string,
  retryAfterHeader?: string,
): ApiFailure {
  const said = (typeof body === 'object' && body !== null ? body : {}) as ApiStatus;
  const seconds = Number(retryAfterHeader ?? said.details?.retryAfterSeconds ?? 0);
  const message = typeof said.message === 'string' && said.message !== '' ? said.message : String(status);
  return new ApiFailure(
    status,
    typeof said.reason === 'string' ? said.reason : '',
    `${call}: ${message}`,
    Number.isFinite(seconds) && seconds > 0 ? Math.min(seconds, RETRY_AFTER_SECONDS_MAX) * 1000 : 0,
  );
}

/** Nobody may send the control plane away for longer. */
const RETRY_AFTER_SECONDS_MAX = 120;

export const asFailure = (error: unknown, call: string): ApiFailure =>
  error instanceof ApiFailure ? error : new ApiFailure(0, '', `${call}: ${errorMessage(error)}`);
