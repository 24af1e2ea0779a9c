// SPDX-License-Identifier: Apache-2.0
// The client of the load, run inside a pod: load until the stop file is there, then one JSON document on stdout.
//   node load-client.ts OPTIONS_AS_JSON STOP_FILE

import { existsSync } from 'node:fs';
import { type LoadOptions, startEngine } from '../load-engine.ts';

const [text = '', stopFile = ''] = process.argv.slice(2);
const options = JSON.parse(text) as LoadOptions;
const engine = startEngine(options);
const poll = setInterval(() => {
  if (!existsSync(stopFile)) return;
  clearInterval(poll);
  void engine.stop().then((report) => {
    process.stdout.write(JSON.stringify(report));
  });
}, 50);
