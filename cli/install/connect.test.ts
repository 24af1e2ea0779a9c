// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { stringify } from 'yaml';
import { connect } from './connect.ts';

test('an API server that asks to be asked later is asked again, and others are not', async () => {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    const again = asked.includes(path);
    asked.push(path);
    const status = path.startsWith('/apis/away') ? 500 : again ? 200 : 429;
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ metadata: {}, items: [{ metadata: { name: 'one' } }] }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-connect-'));
  const kubeconfig = join(folder, 'kubeconfig');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  writeFileSync(
    kubeconfig,
    stringify({
      'current-context': 'c',
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'u' } }],
      clusters: [{ name: 'c', cluster: { server: url, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'u', user: {} }],
    }),
  );
  const cluster = await connect({
    kubeconfig,
    context: undefined,
    as: undefined,
    asGroups: [],
    version: '1',
  });
  try {
    assert.equal((await cluster.list('/apis/busy'))?.length, 1);
    assert.equal(asked.length, 2);
    await assert.rejects(cluster.list('/apis/away'));
    assert.equal(asked.length, 3);
  } finally {
    cluster.close();
    server.close();
    rmSync(folder, { recursive: true });
  }
});
