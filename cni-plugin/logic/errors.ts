// SPDX-License-Identifier: Apache-2.0
// Failures as the CNI specification spells them: an object on stdout with a code, and an exit status of 1.

import { errorMessage, MeshError } from '#lib/core/errors.ts';

/** Codes of the CNI specification 1.1.0; from 100 on they would be the plugin's own. */
export const cniCode = {
  incompatibleVersion: 1,
  unsupportedField: 2,
  environment: 4,
  io: 5,
  decode: 6,
  config: 7,
  tryAgain: 11,
  unavailable: 50,
} as const;

export type CniCode = (typeof cniCode)[keyof typeof cniCode];

/** What the logic throws; `handleCni` turns it into an answer. */
export class CniError extends MeshError {
  readonly cniCode: CniCode;
  /** The message without the details. */
  readonly brief: string;
  readonly details: string;

  constructor(code: CniCode, message: string, options: { readonly details?: string } = {}) {
    const again = code === cniCode.tryAgain || code === cniCode.unavailable;
    super(again ? 'MESH_CNI_TRY_AGAIN' : 'MESH_CNI_INVALID', message, {
      retryable: again,
      ...(options.details === undefined ? {} : { remedy: options.details }),
    });
    this.cniCode = code;
    this.brief = message;
    this.details = options.details ?? '';
  }
}

/** What the program writes and how it exits. */
export interface CniAnswer {
  readonly code: 0 | 1;
  readonly stdout: string;
}

export const success: CniAnswer = { code: 0, stdout: '' };

export const newestVersion = '1.1.0';

export function errorAnswer(
  code: CniCode,
  message: string,
  version: string = newestVersion,
  details = '',
): CniAnswer {
  const error = { cniVersion: version, code, msg: `nodemesh: ${message}` };
  return { code: 1, stdout: `${JSON.stringify(details === '' ? error : { ...error, details })}\n` };
}

/** The answer to anything thrown; what is no CniError leaves the pod in an unknown state, so that it is `otherwise`. */
export function answerOf(error: unknown, version: string, otherwise: CniCode): CniAnswer {
  return error instanceof CniError
    ? errorAnswer(error.cniCode, error.brief, version, error.details)
    : errorAnswer(otherwise, errorMessage(error), version);
}
