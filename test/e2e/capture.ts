// SPDX-License-Identifier: Apache-2.0
// tcpdump in a namespace, started for certain before the traffic and ended for certain after it.

import { spawn } from 'node:child_process';

export interface Tape {
  /** Ends the capture; the file is complete then. */
  stop(): Promise<void>;
}

export async function capture(netns: string, device: string, file: string): Promise<Tape> {
  const args = [
    'netns',
    'exec',
    netns,
    'tcpdump',
    '-i',
    device,
    '-nn',
    '-U',
    '--immediate-mode',
    '-s',
    '0',
    '-w',
    file,
  ];
  const child = spawn('ip', [...args, 'tcp'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
  });
  await new Promise<void>((resolve, reject) => {
    let said = '';
    child.stderr.setEncoding('utf8');
    child.stderr.on('data', (text: string) => {
      said += text;
      if (said.includes('listening on')) resolve();
    });
    child.once('exit', () => reject(new Error(`tcpdump ended: ${said}`)));
  });
  return {
    async stop() {
      child.kill('SIGINT');
      await ended;
    },
  };
}
