// SPDX-License-Identifier: Apache-2.0
// Writes the generated pages of docs/reference and the Helm charts. `make docs`.

import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { chartFiles } from '../install/chart.ts';
import { referencePages } from './reference/pages.ts';

for (const [path, text] of referencePages()) {
  writeFileSync(`docs/reference/${path}`, text);
  console.log(`docs/reference/${path}`);
}

rmSync('charts', { recursive: true, force: true });
for (const [path, text] of chartFiles()) {
  const file = join('charts', path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}
console.log('charts');
