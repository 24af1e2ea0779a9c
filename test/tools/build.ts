// SPDX-License-Identifier: Apache-2.0
// Builds the programs in Go before the tests that run them, whose time is limited. What cannot be built is said; then the
// tests that need it fail.

import { errorMessage } from '#lib/core/errors.ts';
import { goTool, goTools } from './go-tool.ts';

for (const name of Object.keys(goTools) as (keyof typeof goTools)[]) {
  try {
    await goTool(name);
  } catch (error) {
    console.error(errorMessage(error));
  }
}
