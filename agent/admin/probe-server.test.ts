// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { it } from 'node:test';
import { serveProbes } from './probe-server.ts';

it('answers probes on a socket of its own, with the reason why the agent is not ready', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nodemesh-probe-'));
  const socketPath = join(dir, 'probe.sock');
  writeFileSync(socketPath, 'left by a process before');
  let reason: string | undefined = 'it starts';
  const server = await serveProbes(socketPath, () => reason);
  const ask = async (path: string): Promise<string> => {
    const [response] = (await once(request({ socketPath, path }).end(), 'response')) as [IncomingMessage];
    return `${response.statusCode} ${(await text(response)).trim()}`;
  };
  try {
    assert.equal(await ask('/live'), '200 ok');
    assert.equal(await ask('/ready'), '503 not ready: it starts');
    reason = undefined;
    assert.equal(await ask('/ready'), '200 ok');
    assert.match(await ask('/other'), /^404/);
  } finally {
    server.close();
    rmSync(dir, { recursive: true });
  }
  assert.ok(!existsSync(socketPath));
});
