// SPDX-License-Identifier: Apache-2.0
// The YAML reader builds its strings character by character, and V8 keeps such a string as a tree of its pieces, 32
// bytes for each. What is kept for long is made flat, and the same text is one string.

/** Longer ones are seldom repeated. */
const LENGTH_MAX = 128;
const TEXTS_MAX = 16_384;

const texts = new Map<string, string>();

/** A string of one piece: nothing else makes one for sure. */
const flat = (text: string): string => JSON.parse(JSON.stringify(text)) as string;

function kept(text: string): string {
  if (text.length > LENGTH_MAX) return flat(text);
  const known = texts.get(text);
  if (known !== undefined) return known;
  if (texts.size >= TEXTS_MAX) texts.clear();
  const made = flat(text);
  texts.set(made, made);
  return made;
}

/** Puts flat strings in the place of all that are in `value`, an object without a prototype of its own or a list. */
export function flattenStrings(value: unknown, seen: Set<object> = new Set()): void {
  if (typeof value !== 'object' || value === null || seen.has(value)) return;
  // Anchors of YAML may lead anywhere.
  seen.add(value);
  const fields = value as Record<string, unknown>;
  for (const [name, field] of Object.entries(fields)) {
    if (typeof field === 'string') fields[name] = kept(field);
    else flattenStrings(field, seen);
  }
}
