// SPDX-License-Identifier: Apache-2.0
// The kept inputs of each target, in `corpus/<target>/`: bytes as they are, or hexadecimal digits in `.hex` files,
// where `#` begins a comment. What the fuzzer finds is put there and stays, as a test.

import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = join(import.meta.dirname, 'corpus');

export interface KeptInput {
  readonly file: string;
  readonly bytes: Buffer;
}

export function readCorpus(target: string): KeptInput[] {
  return readdirSync(join(folder, target))
    .sort()
    .map((file) => {
      const content = readFileSync(join(folder, target, file));
      return { file, bytes: file.endsWith('.hex') ? fromHex(content.toString('latin1')) : content };
    });
}

/** What a target begins with: its own corpus and that of its seeds. */
export const seedsOf = ({
  name,
  seeds = [],
}: {
  readonly name: string;
  readonly seeds?: readonly string[];
}): KeptInput[] => [name, ...seeds].flatMap(readCorpus);

/** Keeps an input; the path of its file. */
export function keepFinding(target: string, bytes: Buffer, why: string): string {
  const name = createHash('sha256').update(bytes).digest('hex').slice(0, 12);
  const path = join(folder, target, `finding-${name}.hex`);
  mkdirSync(join(folder, target), { recursive: true });
  const lines = bytes.toString('hex').match(/.{1,96}/g) ?? [];
  writeFileSync(path, `# ${why.split('\n')[0] ?? ''}\n${lines.join('\n')}\n`);
  return path;
}

function fromHex(text: string): Buffer {
  return Buffer.from(text.replace(/#.*$/gm, '').replace(/\s+/g, ''), 'hex');
}
