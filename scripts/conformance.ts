// SPDX-License-Identifier: Apache-2.0
// Writes docs/reference/conformance.md from the results of the last run of all tests, and says what is missing.
// (`make docs` writes the same page from the sources alone, taking for granted that every test passes.)

import { writeFileSync } from 'node:fs';
import { readCatalogues } from './conformance/catalogue.ts';
import { evidenceOfRun } from './conformance/evidence.ts';
import { complaints, conformancePage } from './conformance/page.ts';
import { readRunRecord } from './conformance/run-record.ts';
import { note } from './reference/pages.ts';

const catalogues = readCatalogues();
const evidence = evidenceOfRun(readRunRecord());
writeFileSync('docs/reference/conformance.md', `${conformancePage(note, catalogues, evidence)}\n`);
const found = complaints(catalogues, evidence);
for (const complaint of found) console.error(complaint);
process.exitCode = found.length > 0 ? 1 : 0;
