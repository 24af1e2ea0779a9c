// SPDX-License-Identifier: Apache-2.0
// Results as `linkerd check` prints them: a table while they come, only what failed, or one JSON document at the end.

import type { CheckResult } from './check.ts';

export const checkOutputs = ['table', 'short', 'json'] as const;
export type CheckOutput = (typeof checkOutputs)[number];

export interface Printer {
  tell(result: CheckResult): void;
  end(good: boolean): void;
}

const HINTS = 'docs/checks.md';
const symbols = { success: '√', warning: '‼', error: '×' } as const;
const colours = { success: 32, warning: 33, error: 31 } as const;

export function createPrinter(output: CheckOutput, colour: boolean, write: (text: string) => void): Printer {
  return output === 'json' ? jsonPrinter(write) : textPrinter(output === 'short', colour, write);
}

function textPrinter(short: boolean, colour: boolean, write: (text: string) => void): Printer {
  const symbol = (result: CheckResult['result']): string =>
    colour ? `\x1b[${colours[result]};1m${symbols[result]}\x1b[0m` : symbols[result];
  let heading = '';
  return {
    tell({ category, check, result, error }) {
      if (short && result === 'success') return;
      if (category !== heading) {
        write(`${heading === '' ? '' : '\n'}${category}\n${'-'.repeat(category.length)}\n`);
        heading = category;
      }
      write(`${symbol(result)} ${check.text}\n`);
      if (error !== undefined) write(`    ${error}\n    see ${HINTS}#${check.anchor} for hints\n`);
    },
    end(good) {
      write(`${heading === '' ? '' : '\n'}Status check results are ${symbol(good ? 'success' : 'error')}\n`);
    },
  };
}

function jsonPrinter(write: (text: string) => void): Printer {
  const categories: { readonly categoryName: string; readonly checks: object[] }[] = [];
  return {
    tell({ category, check, result, error }) {
      let last = categories.at(-1);
      if (last?.categoryName !== category) categories.push((last = { categoryName: category, checks: [] }));
      const found = error === undefined ? {} : { hint: `${HINTS}#${check.anchor}`, error };
      last.checks.push({ description: check.text, ...found, result });
    },
    end(good) {
      write(`${JSON.stringify({ success: good, categories }, undefined, 2)}\n`);
    },
  };
}
