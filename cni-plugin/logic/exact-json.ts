// SPDX-License-Identifier: Apache-2.0
// JSON that is only handed on: numbers that a double does not hold (an uint64 of a foreign plugin) stay as written.

interface SourceText {
  /** Of numbers, texts, true, false and null. */
  readonly source?: string;
}

// In the language (ES2026) and in Node.js, not yet in the compiler's own declarations.
const exact = JSON as unknown as {
  parse(text: string, revive: (key: string, value: unknown, context: SourceText) => unknown): unknown;
  rawJSON(text: string): object;
};

/** As JSON.parse, but what `JSON.stringify` makes of it has every number as it came. */
export function parseExactly(text: string): unknown {
  return exact.parse(text, (_key, value, { source }) =>
    typeof value === 'number' && source !== undefined && String(value) !== source
      ? exact.rawJSON(source)
      : value,
  );
}
