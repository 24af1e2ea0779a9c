// SPDX-License-Identifier: Apache-2.0
// What a gRPC server says to clients of every kind, frame by frame. Calls through a usual client are in grpc.test.ts.

import assert from 'node:assert/strict';
import type { Server } from 'node:net';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { CANCEL, SETTINGS_INITIAL_WINDOW_SIZE } from '#lib/http2/codes.ts';
import { writePing, writeReset, writeSettings, writeWindowUpdate } from '#lib/http2/frame-writer.ts';
import { type DuplexCall, encodeMessage, type ServerCall, type ServerStream } from './call.ts';
import { CallServer, type CallServerOptions } from './call-server.ts';
import { listenPlain, RawClient } from './raw-client.ts';
import { CallError, status } from './status.ts';

const text = {
  requestDeserialize: (bytes: Buffer): string => {
    if (bytes[0] === 0xff) throw new Error('no text');
    return bytes.toString();
  },
  responseSerialize: (message: string): Buffer => Buffer.from(message),
};
const service = {
  unary: { ...text, path: '/t/Unary', requestStream: false as const, responseStream: false as const },
  stream: { ...text, path: '/t/Stream', requestStream: false as const, responseStream: true as const },
  duplex: { ...text, path: '/t/Duplex', requestStream: true as const, responseStream: true as const },
};
const message = (content: string): Buffer => encodeMessage(Buffer.from(content));

interface Handling {
  unary: (request: string, call: ServerCall) => string | Promise<string>;
  stream: (request: string, call: ServerStream<string>) => void;
  duplex: (call: DuplexCall<string, string>) => void;
}

describe('gRPC server', () => {
  const clock = new VirtualClock();
  let handling: Handling;
  let limits: string[] = [];
  let open: { server: CallServer; listener: Server; clients: RawClient[] }[] = [];

  beforeEach(() => {
    handling = { unary: (request) => `got ${request}`, stream: () => undefined, duplex: () => undefined };
    limits = [];
  });
  afterEach(async () => {
    for (const { server, listener, clients } of open) {
      listener.close();
      for (const client of clients) client.socket.destroy();
      await server.close(0);
    }
    open = [];
  });

  async function serve(options: Partial<CallServerOptions> = {}) {
    const server = new CallServer({
      log: silentLog,
      clock,
      onLimit: (limit) => void limits.push(limit),
      ...options,
    });
    server.addService(service, {
      unary: (request, call) => handling.unary(request, call),
      stream: (request, call) => handling.stream(request, call),
      duplex: (call) => handling.duplex(call),
    });
    const listener = await listenPlain(server, 'somebody');
    const clients: RawClient[] = [];
    open.push({ server, listener, clients });
    const client = async (settings: readonly number[] = []): Promise<RawClient> => {
      const made = await RawClient.open(listener, settings);
      clients.push(made);
      return made;
    };
    return { server, client };
  }

  const ask = (client: RawClient, id: number, path: string, fields = {}, content = 'x'): void => {
    client.call(id, path, fields);
    client.data(id, message(content), true);
  };

  it('answers with head, message and trailers', async () => {
    const client = await (await serve()).client();
    ask(client, 1, '/t/Unary');
    await client.heard(/grpc-status/);
    const mine = client.lines.filter((line) => /^(headers|data) 1 /.test(line));
    assert.deepEqual(mine, [
      'headers 1 :status=200 content-type=application/grpc',
      'data 1 \0\0\0\0\x05got x (10)',
      'headers 1 grpc-status=0 grpc-message=OK end',
    ]);
  });

  it('says to those who speak no gRPC what is served here, after their request', async () => {
    const client = await (await serve()).client();
    const head = { ':scheme': 'http', ':path': '/t/Unary', ':authority': 'test' };
    client.headers(1, { ...head, ':method': 'GET' }, true);
    assert.equal(
      await client.heard(/^headers 1/),
      'headers 1 :status=405 content-type=text/plain allow=POST',
    );
    await client.heard(/^data 1 This is gRPC.* end$/s);
    client.headers(3, { ...head, ':method': 'POST', 'content-type': 'application/grpc-web' });
    client.data(3, Buffer.from('x'), true);
    assert.equal(await client.heard(/^headers 3/), 'headers 3 :status=415 content-type=text/plain');
    client.headers(5, { ...head, ':method': 'POST', 'x-long': 'x'.repeat(66_000) }, true);
    assert.equal(await client.heard(/^headers 5/), 'headers 5 :status=431 content-type=text/plain');
    assert.deepEqual(limits, ['header_list']);
    client.call(7, '/t/Unary', { 'content-type': 'application/grpc+proto;v=1' });
    client.data(7, message('x'), true);
    await client.heard(/^headers 7 grpc-status=0/);
  });

  it('refuses what it does not have in one block, and tells who goes on to stop', async () => {
    const client = await (await serve()).client();
    client.call(1, '/t/Other');
    assert.equal(
      await client.heard(/^headers 1/),
      'headers 1 :status=200 content-type=application/grpc grpc-status=12 ' +
        'grpc-message=there is no method /t/Other grpc-accept-encoding=identity end',
    );
    await client.heard(/^reset 1 0$/);
    // On its way when the answer came.
    client.data(1, message('x'), true);
    ask(client, 3, '/t/Unary', { 'grpc-encoding': 'gzip' });
    assert.match(await client.heard(/^headers 3/), /grpc-status=12 .*grpc-accept-encoding=identity end$/);
  });

  it('an error of a handler is told; what is none of its own stays in the log', async () => {
    const client = await (await serve()).client();
    handling.unary = () => Promise.reject(new CallError(status.NOT_FOUND, '100 %', { rule: 'own' }));
    ask(client, 1, '/t/Unary');
    assert.match(await client.heard(/^headers 1/), / grpc-status=5 grpc-message=100 %25 rule=own end$/);
    handling.stream = () => {
      throw new Error('a secret');
    };
    ask(client, 3, '/t/Stream');
    assert.match(await client.heard(/^headers 3/), / grpc-status=13 grpc-message=an internal error, see/);
  });

  it('a request has one whole message that can be read', async () => {
    const client = await (await serve()).client();
    client.call(1, '/t/Unary');
    client.data(1, message('xyz').subarray(0, 6), true);
    assert.match(await client.heard(/^headers 1/), /grpc-status=13 .*ends before its message/);
    client.call(3, '/t/Unary');
    client.data(3, Buffer.concat([message('x'), message('y')]), true);
    assert.match(await client.heard(/^headers 3/), /grpc-status=13 .*one message/);
    client.call(5, '/t/Stream');
    client.data(5, Buffer.from([1, 0, 0, 0, 0]));
    assert.match(await client.heard(/^headers 5/), /grpc-status=13 .*compressed/);
    client.call(7, '/t/Stream');
    client.data(7, encodeMessage(Buffer.from([0xff])), true);
    assert.match(await client.heard(/^headers 7/), /grpc-status=13 .*cannot be read: no text/);
  });

  it('messages have the same limit in both directions', async () => {
    const client = await (await serve({ messageBytesMax: 10 })).client();
    handling.unary = (request) => request.repeat(2);
    ask(client, 1, '/t/Unary', {}, 'x'.repeat(5));
    await client.heard(/^headers 1 grpc-status=0/);
    ask(client, 3, '/t/Unary', {}, 'x'.repeat(6));
    assert.match(await client.heard(/^headers 3/), /grpc-status=8 .*12 bytes is longer than 10/);
    // Known from the length alone.
    client.call(5, '/t/Unary');
    client.data(5, message('x'.repeat(11)).subarray(0, 5));
    assert.match(await client.heard(/^headers 5/), /grpc-status=8 .*longer than 10/);
  });

  it('ends a call at its deadline, and one whose deadline cannot be read', async () => {
    const client = await (await serve()).client();
    const begun = Promise.withResolvers<ServerStream<string>>();
    handling.stream = (_, call) => begun.resolve(call);
    ask(client, 1, '/t/Stream', { 'grpc-timeout': '50m' });
    const call = await begun.promise;
    clock.advance(49);
    assert.ok(!call.ended);
    clock.advance(1);
    assert.ok(call.ended);
    assert.match(await client.heard(/^headers 1/), /grpc-status=4 /);
    ask(client, 3, '/t/Stream', { 'grpc-timeout': 'soon' });
    assert.match(await client.heard(/^headers 3/), /grpc-status=13 .*"soon" is no grpc-timeout/);
  });

  it('a handler hears the end of its call, however it comes, and who comes later at once', async () => {
    const { client: connect } = await serve();
    for (const end of ['reset', 'connection', 'own'] as const) {
      const client = await connect();
      const begun = Promise.withResolvers<ServerStream<string>>();
      handling.stream = (_, call) => begun.resolve(call);
      ask(client, 1, '/t/Stream');
      const call = await begun.promise;
      assert.deepEqual([call.identity, call.peer], ['somebody', `127.0.0.1:${client.socket.localPort}`]);
      const heard: number[] = [];
      const all = Promise.all(
        [1, 2, 3].map(
          (number) =>
            new Promise<void>((resolve) =>
              call.listen({
                ended() {
                  heard.push(number);
                  resolve();
                },
              }),
            ),
        ),
      );
      if (end === 'reset') client.frame((out, at) => writeReset(out, at, 1, CANCEL));
      else if (end === 'connection') client.socket.destroy();
      else call.end();
      await all;
      call.listen({ ended: () => heard.push(4) });
      assert.deepEqual(heard, [1, 2, 3, 4]);
      assert.equal(call.write('too late'), false);
    }
  });

  it('a client that reads slowly holds up nobody, and gets all that was written before the end', async () => {
    const client = await (await serve()).client([SETTINGS_INITIAL_WINDOW_SIZE, 20]);
    const drained = Promise.withResolvers<void>();
    const written: boolean[] = [];
    handling.stream = (_, call) => {
      call.listen({ drained: () => drained.resolve() });
      for (const content of ['a'.repeat(15), 'b'.repeat(15), 'c'.repeat(15)])
        written.push(call.write(content));
      void drained.promise.then(() => {
        call.write('d'.repeat(10));
        call.end();
      });
    };
    ask(client, 1, '/t/Stream');
    ask(client, 3, '/t/Unary');
    await client.heard(/^headers 3 grpc-status=0/);
    assert.deepEqual(written, [true, false, false]);
    const data = (): string => client.lines.filter((line) => line.startsWith('data 1')).join('');
    assert.ok(data().includes('a') && !data().includes('b'));
    client.frame((out, at) => writeWindowUpdate(out, at, 1, 30));
    await client.heard(/^data 1 .*b/s);
    client.frame((out, at) => writeSettings(out, at, [SETTINGS_INITIAL_WINDOW_SIZE, 1000]));
    await client.heard(/^headers 1 grpc-status=0 grpc-message=OK end$/);
    const counts = ['a', 'b', 'c', 'd'].map(
      (letter) =>
        /* The line itself begins with "data". */ data().replaceAll('data', '').split(letter).length - 1,
    );
    assert.deepEqual(counts, [15, 15, 15, 10]);
  });

  it('an error ends the message that was begun and drops those behind it', async () => {
    const client = await (await serve()).client([SETTINGS_INITIAL_WINDOW_SIZE, 10]);
    handling.stream = (_, call) => {
      call.write('x'.repeat(15));
      call.write('y'.repeat(15));
      call.fail(new CallError(status.UNAVAILABLE, 'go'));
    };
    ask(client, 1, '/t/Stream');
    await client.heard(/^headers 1 :status/);
    client.frame((out, at) => writeWindowUpdate(out, at, 1, 1000));
    assert.match(await client.heard(/^headers 1 grpc-status/), /grpc-status=14 grpc-message=go end$/);
    assert.ok(!client.lines.some((line) => /^data.*y/s.test(line)));
  });

  it('messages that nobody takes hold back their client at its window, and come when somebody does', async () => {
    const client = await (await serve()).client();
    const begun = Promise.withResolvers<DuplexCall<string, string>>();
    handling.duplex = (call) => begun.resolve(call);
    client.call(1, '/t/Duplex');
    const call = await begun.promise;
    const big = 'x'.repeat(16_379);
    for (let index = 0; index < 3; index++) client.data(1, message(big));
    client.data(1, message('last'));
    ask(client, 3, '/t/Unary');
    await client.heard(/^headers 3 grpc-status=0/);
    assert.ok(!client.lines.some((line) => line.startsWith('window 1 ')));
    const taken: number[] = [];
    const finished = Promise.withResolvers<void>();
    call.receive({
      message(content) {
        taken.push(content.length);
        // One at a time.
        if (taken.length === 1) call.receive(undefined);
      },
      finished: () => undefined,
    });
    assert.deepEqual(taken, [16_379]);
    call.receive({
      message: (content) => void taken.push(content.length),
      finished: () => {
        call.end();
        finished.resolve();
      },
    });
    assert.deepEqual(taken, [16_379, 16_379, 16_379, 4]);
    await client.heard(/^window 1 \d+$/);
    client.data(1, message('more'), true);
    await finished.promise;
    assert.equal(taken.at(-1), 4);
    await client.heard(/^headers 1 .*grpc-status=0 grpc-message=OK end$/);
  });

  it('requests that do not come to their end have a limit together', async () => {
    handling.unary = () => 'done';
    const client = await (await serve({ messageBytesMax: 10_000 })).client();
    const part = message('x'.repeat(10_000)).subarray(0, 9_000);
    for (let id = 1; id <= 9; id += 2) {
      client.call(id, '/t/Unary');
      client.data(id, part);
    }
    assert.match(await client.heard(/^headers 9/), /grpc-status=8 .*too much/);
    assert.deepEqual(limits, ['requests']);
    assert.ok(!client.lines.some((line) => line.startsWith('headers 7')));
    // What was held is free again.
    client.frame((out, at) => writeReset(out, at, 1, CANCEL));
    client.call(11, '/t/Unary');
    client.data(11, part);
    client.data(11, message('x'.repeat(10_000)).subarray(9_000), true);
    await client.heard(/^headers 11 .*grpc-status=0/);
  });

  it('has so many calls of a connection at a time', async () => {
    const client = await (await serve({ streamsPerConnectionMax: 3 })).client();
    await client.heard(/^setting 3=3$/);
    for (const id of [1, 3, 5, 7]) ask(client, id, '/t/Stream');
    await client.heard(/^reset 7 7$/);
    assert.deepEqual(limits, ['streams']);
    client.frame((out, at) => writeReset(out, at, 3, CANCEL));
    ask(client, 9, '/t/Unary');
    await client.heard(/^headers 9 grpc-status=0/);
  });

  it('ends connections that flood it; giving up all calls at once is no flood', async () => {
    const { client: connect } = await serve({ streamsPerConnectionMax: 3_000 });
    const patient = await connect();
    for (let id = 1; id < 6_000; id += 2) {
      patient.call(id, '/t/Stream');
      patient.frame((out, at) => writeReset(out, at, id, CANCEL));
    }
    ask(patient, 6_001, '/t/Unary');
    await patient.heard(/^headers 6001 grpc-status=0/);
    assert.deepEqual(limits, []);
    const flooding = await connect();
    for (let count = 0; count < 11_000; count++) flooding.frame((out, at) => writePing(out, at, false, 1, 2));
    await flooding.heard(/^goaway 0 11$/);
    await flooding.isClosed();
    const resetting = await connect();
    for (let id = 1; id < 11_000; id += 2) {
      resetting.call(id, '/t/Stream');
      resetting.frame((out, at) => writeReset(out, at, id, CANCEL));
    }
    await resetting.heard(/^goaway \d+ 11$/);
    assert.deepEqual(limits, ['flood', 'flood']);
  });

  it('leaves in two steps: calls on their way are taken, those that go on are ended by the grace', async () => {
    const { server, client: connect } = await serve();
    const client = await connect();
    handling.stream = (_, call) => void call.write('begun');
    ask(client, 1, '/t/Stream');
    await client.heard(/begun/);
    const closed = server.close(5_000);
    await client.heard(/^goaway 2147483647 0$/);
    const [, high = '', low = ''] = /^ping (-?\d+) (-?\d+)$/.exec(await client.heard(/^ping /)) ?? [];
    ask(client, 3, '/t/Unary');
    await client.heard(/^headers 3 grpc-status=0/);
    client.frame((out, at) => writePing(out, at, true, Number(high), Number(low)));
    await client.heard(/^goaway 3 0$/);
    ask(client, 5, '/t/Unary');
    client.frame((out, at) => writePing(out, at, false, 7, 7));
    await client.heard(/^ping ack 7 7$/);
    assert.ok(!client.lines.some((line) => line.startsWith('headers 5')));
    assert.ok(!client.closed);
    clock.advance(5_000);
    await client.isClosed();
    await closed;
  });

  it('a connection that has left ends with its last call', async () => {
    const { server, client: connect } = await serve();
    const client = await connect();
    const begun = Promise.withResolvers<ServerStream<string>>();
    handling.stream = (_, call) => begun.resolve(call);
    ask(client, 1, '/t/Stream');
    const call = await begun.promise;
    const closed = server.close(5_000);
    const [, high = '', low = ''] = /^ping (-?\d+) (-?\d+)$/.exec(await client.heard(/^ping /)) ?? [];
    client.frame((out, at) => writePing(out, at, true, Number(high), Number(low)));
    await client.heard(/^goaway 1 0$/);
    call.end();
    await client.heard(/^headers 1 .*grpc-status=0 grpc-message=OK end$/);
    await client.isClosed();
    await closed;
  });

  it('asks a silent client whether it is there, and ends the connection of one that does not answer', async () => {
    const client = await (await serve()).client();
    const begun = Promise.withResolvers<ServerStream<string>>();
    handling.stream = (_, call) => begun.resolve(call);
    ask(client, 1, '/t/Stream');
    const call = await begun.promise;
    clock.advance(20_000);
    await client.heard(/^ping 0 0$/);
    client.frame((out, at) => writePing(out, at, true, 0, 0));
    client.frame((out, at) => writePing(out, at, false, 1, 1));
    await client.heard(/^ping ack 1 1$/);
    clock.advance(15_000);
    assert.ok(!call.ended);
    clock.advance(20_000);
    await client.isClosed();
    const ended = Promise.withResolvers<void>();
    call.listen({ ended: () => ended.resolve() });
    await ended.promise;
  });
});
