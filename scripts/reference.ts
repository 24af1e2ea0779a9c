// SPDX-License-Identifier: Apache-2.0
// Writes the generated pages of docs/reference. `make docs`.

import { writeFileSync } from 'node:fs';
import { referencePages } from './reference/pages.ts';

for (const [path, text] of referencePages()) {
  writeFileSync(`docs/reference/${path}`, text);
  console.log(`docs/reference/${path}`);
}
