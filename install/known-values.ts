// SPDX-License-Identifier: Apache-2.0
// The values that a tree may name, of whichever chart.

import { cniValues } from './cni-values-table.ts';
import type { Field } from './value-fields.ts';
import { controlPlaneValues } from './values-table.ts';

export function fieldAt(path: string): Field {
  const found = controlPlaneValues.fields.get(path) ?? cniValues.fields.get(path);
  if (found === undefined) throw new Error(`there is no value ${path}`);
  return found;
}
