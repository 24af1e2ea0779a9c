// SPDX-License-Identifier: Apache-2.0
// Checks what the compiler and the linter cannot: layers and cycles, house rules, generated code that is out
// of date. Part of `make lint`; prints one line per finding.

import { execFileSync } from 'node:child_process';
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkFile, isGenerated } from './tidy/house-rules.ts';
import { graphOf } from './tidy/imports.ts';
import { checkLayers } from './tidy/layers.ts';
import { findMissing, type Lockfile } from './tidy/lockfile.ts';

const FILE_BYTES_MAX = 2 * 1024 * 1024;
/** Folders of .proto files; the generated code lies in `gen` of each. */
const protoFolders = ['lib/proto', 'samples/shop/proto'];

function listFiles(): string[] {
  const listed = existsSync('.git')
    ? execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
        encoding: 'utf8',
      }).split('\0')
    : globSync('**/*', { exclude: ['node_modules/**', 'build/**'] });
  return listed.filter((path) => path !== '' && existsSync(path) && statSync(path).isFile());
}

/** The committed code must be what the .proto files give. */
function checkGenerated(folder: string): string[] {
  const temporary = mkdtempSync(join(tmpdir(), 'nodemesh-proto-'));
  try {
    execFileSync('buf', ['generate', '-o', temporary], {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const fresh = readTree(join(temporary, 'gen'));
    const kept = readTree(join(folder, 'gen'));
    return [...new Set([...fresh.keys(), ...kept.keys()])]
      .filter((path) => fresh.get(path) !== kept.get(path))
      .map((path) => `${folder}/gen/${path}: is not what the .proto files give; run make proto`);
  } finally {
    rmSync(temporary, { recursive: true });
  }
}

function readTree(root: string): Map<string, string> {
  const tree = new Map<string, string>();
  for (const path of globSync('**/*.ts', { cwd: root }))
    tree.set(path, readFileSync(join(root, path), 'utf8'));
  return tree;
}

function checkLockfile(): string[] {
  const missing = findMissing(JSON.parse(readFileSync('package-lock.json', 'utf8')) as Lockfile);
  if (missing.length === 0) return [];
  return [
    `package-lock.json: npm ci would refuse it, ${missing[0]?.name} is missing; run node scripts/complete-lockfile.ts`,
  ];
}

const texts = new Map<string, string>();
for (const path of listFiles()) {
  if (statSync(path).size > FILE_BYTES_MAX) {
    console.log(`${path}: more than ${FILE_BYTES_MAX} bytes`);
    process.exitCode = 1;
    continue;
  }
  const bytes = readFileSync(path);
  if (!bytes.includes(0)) texts.set(path, bytes.toString('utf8'));
}

const sources = new Map([...texts].filter(([path]) => path.endsWith('.ts') && !isGenerated(path)));
const errors = [
  ...checkLayers(graphOf(sources)),
  ...protoFolders.flatMap(checkGenerated),
  ...checkLockfile(),
];
for (const [path, text] of texts) {
  for (const finding of checkFile(path, text)) {
    if (finding.level === 'error') errors.push(finding.text);
    else console.log(`warning: ${finding.text}`);
  }
}
if (errors.length > 0) {
  console.log(errors.join('\n'));
  process.exitCode = 1;
}
