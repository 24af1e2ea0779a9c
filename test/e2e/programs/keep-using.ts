// SPDX-License-Identifier: Apache-2.0
// Uses one connection to an HTTP server again and again until it fails or the time is over, and prints when it worked
// last: `http` asks on a kept connection, `tunnel` sends through an upgraded one. The file that is named last, if any, is
// made when it has worked once.

import { writeFileSync } from 'node:fs';
import { Agent, get, request } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const [way, host, port, seconds, begunFile] = process.argv.slice(2);
const PAUSE_MS = 100;
const PATIENCE_MS = 10_000;
const endsAt = Date.now() + Number(seconds) * 1_000;
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

async function ask(): Promise<string | undefined> {
  return new Promise((resolve) => {
    const asked = get({ agent, host, port, timeout: PATIENCE_MS }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode === 200 ? undefined : `${response.statusCode}`));
      response.on('error', (error) => resolve(error.message));
    });
    asked.on('timeout', () => {
      resolve('timeout');
      asked.destroy();
    });
    asked.on('error', (error) => resolve(error.message));
  });
}

async function openTunnel(): Promise<() => Promise<string | undefined>> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const asked = request({ host, port, headers: { connection: 'upgrade', upgrade: 'echo' } });
    asked.on('upgrade', (_response, upgraded: Socket) => resolve(upgraded));
    asked.on('response', (response) => reject(new Error(`status ${response.statusCode}`)));
    asked.on('error', reject);
    asked.end();
  });
  let heard: (() => void) | undefined;
  let failed: string | undefined;
  socket.on('data', () => heard?.());
  socket.on('error', (error) => {
    failed = error.message;
  });
  socket.on('close', () => {
    failed ??= 'closed';
    heard?.();
  });
  return async () => {
    if (failed !== undefined) return failed;
    const echo = new Promise<void>((resolve) => {
      heard = resolve;
    });
    socket.write('x');
    const late = sleep(PATIENCE_MS, 'timeout');
    return (await Promise.race([echo.then(() => failed), late])) ?? undefined;
  };
}

const use = way === 'tunnel' ? await openTunnel() : ask;
let workedAt = 0;
let failure: string | undefined;
console.error('begun');
while (failure === undefined && Date.now() < endsAt) {
  failure = await use();
  if (failure === undefined) {
    if (workedAt === 0 && begunFile !== undefined) writeFileSync(begunFile, '');
    workedAt = Date.now();
  }
  await sleep(PAUSE_MS);
}
console.log(JSON.stringify({ workedAt, failedAt: Date.now(), failure }));
process.exit(0);
