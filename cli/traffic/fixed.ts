// SPDX-License-Identifier: Apache-2.0
// A number with so many decimals as C's printf writes it: what lies exactly in the middle goes to the even digit, where
// toFixed goes up.

export function fixed(value: number, digits: number): string {
  // A double that is a middle ends after a few digits; its neighbours are farther away than twenty show.
  const exact = new RegExp(`^(-?\\d+\\.?\\d{${digits}})50*$`).exec(value.toFixed(20));
  const below = exact?.[1];
  return below !== undefined && /[02468]\.?$/.test(below) ? below.replace(/\.$/, '') : value.toFixed(digits);
}
