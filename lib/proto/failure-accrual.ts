// SPDX-License-Identifier: Apache-2.0
// When clients shall leave out an endpoint that fails, as a header field of the answer to Get: Linkerd's messages of
// Destination have no place for it. `consecutive;max-failures=7;min-penalty=1000;max-penalty=60000;jitter=0.5`

export const FAILURE_ACCRUAL_HEADER = 'nodemesh-failure-accrual';

export interface ConsecutiveFailures {
  readonly maxFailures: number;
  readonly minPenaltyMs: number;
  readonly maxPenaltyMs: number;
  readonly jitterRatio: number;
}

export function encodeFailureAccrual(accrual: ConsecutiveFailures): string {
  const { maxFailures, minPenaltyMs, maxPenaltyMs, jitterRatio } = accrual;
  return `consecutive;max-failures=${maxFailures};min-penalty=${minPenaltyMs};max-penalty=${maxPenaltyMs};jitter=${jitterRatio}`;
}

/** Undefined for what another version may mean. */
export function decodeFailureAccrual(text: string): ConsecutiveFailures | undefined {
  const [kind, ...fields] = text.split(';');
  if (kind !== 'consecutive') return undefined;
  const values = new Map(fields.map((field) => field.split('=', 2) as [string, string | undefined]));
  const number = (name: string): number => Number(values.get(name) ?? Number.NaN);
  const accrual = {
    maxFailures: number('max-failures'),
    minPenaltyMs: number('min-penalty'),
    maxPenaltyMs: number('max-penalty'),
    jitterRatio: number('jitter'),
  };
  const sound =
    accrual.maxFailures >= 1 &&
    accrual.minPenaltyMs > 0 &&
    accrual.maxPenaltyMs >= accrual.minPenaltyMs &&
    accrual.jitterRatio >= 0;
  return sound ? accrual : undefined;
}
