// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { createApiClient } from './api-client.ts';

it('gives up a watch that the server does not answer, long before one that is silent', async () => {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const clock = new VirtualClock();
  const { port } = server.address() as AddressInfo;
  const api = createApiClient({
    access: { server: `http://127.0.0.1:${port}`, credentials: () => Promise.resolve({ headers: {} }) },
    clock,
    userAgent: 'test',
  });
  try {
    const connected = once(server, 'connection');
    const { ended } = api.stream({ path: '/api/v1/pods' }, () => assert.fail('a line'), 150_000);
    await connected;
    clock.advance(30_000);
    await assert.rejects(ended, /GET \/api\/v1\/pods: no answer within 30000 ms/);
  } finally {
    api.close();
    server.close();
  }
});
