// SPDX-License-Identifier: Apache-2.0
// The client of the load, run inside a pod: load until the stop file is there, then one JSON document on stdout.
// Makes the file BEGUN as soon as requests of each kind, and on each kept connection, were answered.
//   node load-client.ts OPTIONS_AS_JSON STOP_FILE BEGUN_FILE

import { existsSync, writeFileSync } from 'node:fs';
import { type LoadOptions, startEngine } from '../load-engine.ts';

const [text = '', stopFile = '', begunFile = ''] = process.argv.slice(2);
const options = JSON.parse(text) as LoadOptions;
const engine = startEngine(options);
let begun = false;
const poll = setInterval(() => {
  if (!begun && engine.everyConnectionAnswered()) {
    begun = true;
    writeFileSync(begunFile, '');
  }
  if (!existsSync(stopFile)) return;
  clearInterval(poll);
  void engine.stop().then((report) => {
    process.stdout.write(JSON.stringify(report));
  });
}, 50);
