// SPDX-License-Identifier: Apache-2.0
// The program that the kubelet executes as the agent's probe, against the agent's own server.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { serveProbes } from '../../agent/admin/probe-server.ts';

const program = resolve(import.meta.dirname, '../../build/probe');

/** Exit code and what it said. */
const probe = (...args: readonly string[]): Promise<string> =>
  new Promise((done) => {
    execFile(program, args, (error, output) => {
      done(`${error === null ? 0 : String(error.code)} ${output.trim()}`);
    });
  });

describe("the agent's probe", () => {
  let dir: string;
  let path: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nodemesh-probe-'));
    path = join(dir, 'probe.sock');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('says what the agent says, and ends with 0 only if that is good', async () => {
    let reason: string | undefined = 'it starts';
    const server = await serveProbes(path, () => reason);
    try {
      assert.equal(await probe(path, '/live'), '0 ok');
      assert.equal(await probe(path, '/ready'), '1 not ready: it starts');
      reason = undefined;
      assert.equal(await probe(path, '/ready'), '0 ok');
      assert.match(await probe(path, '/none'), /^1 /);
    } finally {
      server.close();
    }
  });

  it('fails where nobody answers, at once or in time', async () => {
    assert.match(await probe(path, '/live'), /^1 .*No such file/);
    const silent: Server = createServer();
    const ended = once(silent, 'connection');
    await once(silent.listen(path), 'listening');
    try {
      assert.match(await probe(path, '/live'), /^1 no answer/);
      const [socket] = (await ended) as [{ destroy(): void }];
      socket.destroy();
    } finally {
      silent.close();
    }
  });

  it('refuses wrong usage', async () => {
    assert.match(await probe(), /^2/);
    assert.match(await probe('x'.repeat(200), '/live'), /^2/);
  });
});
