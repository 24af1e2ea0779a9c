// SPDX-License-Identifier: Apache-2.0
// For tests: bodies of many sizes through node:http's own server and clients, with a length or in chunks, there and back.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type Agent, createServer, request as httpRequest, type Server } from 'node:http';

/** Around the sizes of reads, TLS records and windows. */
const SIZES = [0, 1, 100, 16_000, 16_384, 16_385, 65_535, 65_536, 65_537, 200_000, 1_500_000];
const LARGEST = Math.max(...SIZES);

/** Sends each body back, on loopback. */
export async function mirrorServer(): Promise<Server> {
  const server = createServer((request, response) => {
    if (request.url === '/sized') response.setHeader('content-length', request.headers['x-size'] as string);
    request.pipe(response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

/** Each size three times, all at once: what comes back must be what was sent. */
export async function postBodies(agent: Agent, port: number): Promise<void> {
  const body = Buffer.alloc(LARGEST);
  for (let index = 0; index < body.length; index++) body[index] = (index * 31 + (index >> 8)) & 0xff;
  await Promise.all(
    [...SIZES, ...SIZES, ...SIZES].map(async (size, index) => {
      const sized = index % 2 === 0;
      const request = httpRequest({
        agent,
        port,
        method: 'POST',
        path: sized ? '/sized' : '/chunked',
        headers: { 'x-size': String(size), ...(sized ? { 'content-length': String(size) } : {}) },
      });
      request.end(body.subarray(0, size));
      const [response] = (await once(request, 'response')) as [AsyncIterable<Buffer>];
      const parts: Buffer[] = [];
      for await (const part of response) parts.push(part);
      assert.ok(Buffer.concat(parts).equals(body.subarray(0, size)), `${size} bytes`);
    }),
  );
}
