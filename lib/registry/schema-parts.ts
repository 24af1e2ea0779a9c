// SPDX-License-Identifier: Apache-2.0
// What the schemas of several kinds have in common.

import * as v from 'valibot';

export const portNumber = v.pipe(
  v.number('expected a port number'),
  v.integer('expected a whole port number'),
  v.minValue(1, 'expected a port from 1 to 65535'),
  v.maxValue(65535, 'expected a port from 1 to 65535'),
);

/** Empty if it is not there. */
export const listOf = <const S extends v.GenericSchema>(item: S) =>
  v.nullish(v.array(item, 'expected a list'), []);
