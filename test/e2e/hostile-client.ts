// SPDX-License-Identifier: Apache-2.0
// Runs inside a pod or a node's namespace: reads attempts as JSON from its input, makes them all at once, and writes
// what became of each.

import { type Attempt, tryConnection } from './hostile-attempt.ts';

const parts: Buffer[] = [];
for await (const part of process.stdin as AsyncIterable<Buffer>) parts.push(part);
const attempts = JSON.parse(Buffer.concat(parts).toString()) as readonly Attempt[];
const outcomes = await Promise.all(attempts.map(tryConnection));
process.stdout.write(JSON.stringify(outcomes));
