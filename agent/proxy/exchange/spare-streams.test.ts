// SPDX-License-Identifier: Apache-2.0
// Objects of streams that are used again: not too early, not without end, and nothing of one request in the next.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  connect,
  createServer,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { createHttpServer } from './server.ts';
import { SpareStreams } from './spare-streams.ts';

test('what ended is used again when the connection reads, and no more than a few are kept', () => {
  const spares = new SpareStreams<number>();
  spares.keep(1);
  assert.equal(spares.take(), undefined, 'whoever ended it may still look at it');
  spares.turn();
  assert.equal(spares.take(), 1);
  assert.equal(spares.take(), undefined, 'once');
  for (let index = 0; index < 1_000; index++) spares.keep(index);
  spares.turn();
  let kept = 0;
  while (spares.take() !== undefined) kept++;
  assert.equal(kept, 64);
  spares.keep(2);
  spares.turn();
  spares.clear();
  assert.equal(spares.take(), undefined);
});

test('each request has its own fields, body and trailers, whatever its stream carried before', async (t) => {
  const server = createServer();
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    let body = '';
    let trailers: IncomingHttpHeaders = {};
    stream.on('data', (part: Buffer) => (body += part.toString()));
    stream.on('trailers', (fields: IncomingHttpHeaders) => (trailers = fields));
    stream.on('end', () => {
      const { 'x-a': a, ':method': method } = headers;
      stream.respond(
        { ':status': 200, 'content-type': headers['content-type'] ?? 'text/plain' },
        { waitForTrailers: true },
      );
      stream.on('wantTrailers', () => stream.sendTrailers(a === undefined ? {} : { 'x-end': String(a) }));
      stream.end(JSON.stringify([method, a, body, trailers['x-sum']]));
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const metrics = new RecordedMetrics();
  const endpoint = new LoopbackEndpoint((server.address() as AddressInfo).port, metrics, false, true);
  const proxy = await listenLoopback(createHttpServer(), fixedTarget([endpoint]), null, false, true);
  const session = connect(`http://127.0.0.1:${proxy.port}`);
  t.after(async () => {
    session.destroy();
    await proxy.close();
    server.close();
  });

  const ask = async (fields: OutgoingHttpHeaders, body: string, sum?: string): Promise<string> => {
    const stream = session.request(
      { ':path': '/', ...fields },
      {
        waitForTrailers: sum !== undefined,
        endStream: body === '',
      },
    );
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': sum }));
    let text = '';
    let end = '';
    stream.on('data', (part: Buffer) => (text += part.toString()));
    stream.on('trailers', (trailers: IncomingHttpHeaders) => (end = String(trailers['x-end'] ?? '')));
    if (body !== '') stream.end(body);
    await once(stream, 'close');
    return `${text} ${end}`.trim();
  };
  const grpc = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers', 'x-a': 'rpc' };
  const rounds = Array.from({ length: 5 }, (_, round) => round);
  for (const round of rounds) {
    // Several at once, and after each other.
    const answers = await Promise.all([
      ask({ ':method': 'POST', 'x-a': `one${round}` }, 'x'.repeat(9_000), 'sum'),
      ask({ ':method': 'GET' }, ''),
      ask(grpc, 'message'),
    ]);
    assert.deepEqual(answers, [
      `["POST","one${round}","${'x'.repeat(9_000)}","sum"] one${round}`,
      '["GET",null,"",null]',
      '["POST","rpc","message",null] rpc',
    ]);
    assert.equal(await ask({ ':method': 'GET' }, ''), '["GET",null,"",null]');
  }
  assert.equal(metrics.grpc.length, rounds.length, 'only what is gRPC is classified as such');
  assert.equal(endpoint.connections, 1);
  assert.equal(endpoint.slot?.load.inFlight, 0);
});
