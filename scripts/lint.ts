// SPDX-License-Identifier: Apache-2.0
// Every static check at once, one line each and the output of those that fail. `make lint`.

import { spawn } from 'node:child_process';

const checks: readonly { readonly name: string; readonly command: readonly [string, ...string[]] }[] = [
  { name: 'house rules', command: ['node', 'scripts/tidy.ts'] },
  { name: 'format', command: ['biome', 'format', '--max-diagnostics=20', '.'] },
  { name: 'oxlint', command: ['oxlint', '--type-aware', '--quiet'] },
  { name: 'tsc', command: ['tsc', '--noEmit'] },
];

async function run(name: string, [program, ...args]: readonly [string, ...string[]]): Promise<boolean> {
  const startedMs = performance.now();
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  const exit = await new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code, signal) => resolve(String(code ?? signal)));
  });
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  if (exit === '0') {
    console.log(`${name}: ok (${seconds} s)`);
    const warnings = output.split('\n').filter((line) => line.startsWith('warning:'));
    if (warnings.length > 0) console.log(warnings.join('\n'));
    return true;
  }
  console.log(`${name}: failed (${exit}, ${seconds} s)\n${output.trimEnd()}`);
  return false;
}

const results = await Promise.all(checks.map((check) => run(check.name, check.command)));
process.exitCode = results.every(Boolean) ? 0 : 1;
