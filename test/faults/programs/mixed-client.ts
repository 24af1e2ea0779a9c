// SPDX-License-Identifier: Apache-2.0
// The client of the mixed load, run inside a pod: holds its connections until the stop file is there, then says one
// JSON document on stdout. Writes its status into a file meanwhile.
//   node mixed-client.ts OPTIONS_AS_JSON STOP_FILE STATUS_FILE

import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { type MixedOptions, startMixed } from '../mixed-engine.ts';

const STATUS_MS = 250;
const [text = '', stopFile = '', statusFile = ''] = process.argv.slice(2);
const engine = startMixed(JSON.parse(text) as MixedOptions);
const poll = setInterval(() => {
  writeFileSync(`${statusFile}.new`, JSON.stringify(engine.status()));
  renameSync(`${statusFile}.new`, statusFile);
  if (!existsSync(stopFile)) return;
  clearInterval(poll);
  process.stdout.write(JSON.stringify(engine.stop()), () => process.exit(0));
}, STATUS_MS);
