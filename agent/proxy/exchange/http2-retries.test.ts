// SPDX-License-Identifier: Apache-2.0
// gRPC responses whose status makes another attempt of them: what comes in one piece is looked at as a whole.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:http2';
import { type AddressInfo, connect as dial, createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { fixedTarget, LoopbackEndpoint, listenLoopback, RecordedMetrics } from './loopback.ts';
import { createHttpServer } from './server.ts';

const HEADERS = 1;
const DATA = 0;
const END_STREAM = 1;
const END_HEADERS = 4;
const PREFACE_BYTES = 24;

function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** A literal field without indexing. */
const field = (name: string, value: string): Buffer =>
  Buffer.concat([
    Buffer.from([0, name.length]),
    Buffer.from(name),
    Buffer.from([value.length]),
    Buffer.from(value),
  ]);

/** A whole response in one write: head, parts of a body, trailers. */
function response(stream: number, status: number, parts: readonly string[]): Buffer {
  // 0x88 is `:status: 200`.
  const head = Buffer.concat([Buffer.from([0x88]), field('content-type', 'application/grpc')]);
  return Buffer.concat([
    frame(HEADERS, END_HEADERS, stream, head),
    ...parts.map((part) => frame(DATA, 0, stream, Buffer.from(part))),
    frame(HEADERS, END_HEADERS | END_STREAM, stream, field('grpc-status', String(status))),
  ]);
}

/** An endpoint that answers the streams of a connection in turn, each in one write. */
async function endpointOf(t: TestContext, answers: readonly (readonly [number, readonly string[]])[]) {
  let asked = 0;
  const server = createServer((socket) => {
    t.after(() => socket.destroy());
    let bytes = Buffer.alloc(0);
    let skipped = false;
    socket.on('error', () => undefined);
    socket.write(frame(4, 0, 0, Buffer.alloc(0)));
    socket.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (!skipped && bytes.length < PREFACE_BYTES) return;
      if (!skipped) bytes = bytes.subarray(PREFACE_BYTES);
      skipped = true;
      while (bytes.length >= 9 && bytes.length >= 9 + bytes.readUIntBE(0, 3)) {
        const length = 9 + bytes.readUIntBE(0, 3);
        const ends = (bytes[3] === HEADERS || bytes[3] === DATA) && ((bytes[4] as number) & END_STREAM) !== 0;
        const [status, parts] = (ends ? answers[asked++] : undefined) ?? [0, null];
        if (parts !== null) socket.write(response(bytes.readUInt32BE(5), status, parts));
        bytes = bytes.subarray(length);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return { port: (server.address() as AddressInfo).port, asked: () => asked };
}

async function call(t: TestContext, answers: readonly (readonly [number, readonly string[]])[]) {
  const { port, asked } = await endpointOf(t, answers);
  const metrics = new RecordedMetrics();
  const target = {
    ...fixedTarget([new LoopbackEndpoint(port, metrics, false, true)]),
    policy: { retry: { statuses: [], grpcCodes: [13], maxRetries: 1 } },
  };
  const proxy = await listenLoopback(createHttpServer(), target, null, false, true);
  const session = connect('http://shop', {
    createConnection: () => dial({ host: '127.0.0.1', port: proxy.port }),
  });
  session.on('error', () => undefined);
  t.after(async () => {
    session.destroy();
    await proxy.close();
  });
  const stream = session.request({
    ':method': 'POST',
    ':path': '/a.B/C',
    'content-type': 'application/grpc',
  });
  let text = '';
  let status = '';
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
  });
  stream.on('trailers', (trailers) => {
    status = String(trailers['grpc-status']);
  });
  stream.end('question');
  await once(stream, 'close');
  return { text, status, asked: asked(), grpc: metrics.grpc };
}

const timeout = { timeout: 20_000 };

test('a failure after one part of the body, all at once, is nobody’s', timeout, async (t) => {
  assert.deepEqual(
    await call(t, [
      [13, ['half']],
      [0, ['whole']],
    ]),
    {
      text: 'whole',
      status: '0',
      asked: 2,
      grpc: [13, 0],
    },
  );
});

test('so is one without a body, and the last one is the client’s', timeout, async (t) => {
  assert.deepEqual(
    await call(t, [
      [13, []],
      [13, ['half']],
    ]),
    {
      text: 'half',
      status: '13',
      asked: 2,
      grpc: [13, 13],
    },
  );
});

test('of two parts both pass, and the trailers after them', timeout, async (t) => {
  assert.deepEqual(
    await call(t, [
      [13, ['one', 'two']],
      [0, []],
    ]),
    {
      text: 'onetwo',
      status: '13',
      asked: 1,
      grpc: [13],
    },
  );
});

test('a success is passed on whole', timeout, async (t) => {
  assert.deepEqual(await call(t, [[0, ['whole']]]), { text: 'whole', status: '0', asked: 1, grpc: [0] });
});
