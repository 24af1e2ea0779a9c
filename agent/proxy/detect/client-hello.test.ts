// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { Duplex } from 'node:stream';
import { before, describe, test } from 'node:test';
import { connect, type ConnectionOptions } from 'node:tls';
import * as fc from 'fast-check';
import { CLIENT_HELLO_BYTES_MAX, parseClientHello } from './client-hello.ts';

/** The first flight of a real client. */
async function helloOf(options: ConnectionOptions): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const flight = Promise.withResolvers<Buffer>();
  const wire = new Duplex({
    read: () => undefined,
    write(chunk: Buffer, _encoding, written) {
      written();
      chunks.push(chunk);
      const all = Buffer.concat(chunks);
      if (all.length >= 5 && all.length >= 5 + all.readUInt16BE(3)) flight.resolve(all);
    },
  });
  const socket = connect({ socket: wire, rejectUnauthorized: false, ...options });
  socket.on('error', flight.reject);
  try {
    return await flight.promise;
  } finally {
    socket.destroy();
    wire.destroy();
  }
}

const NAME = 'api.shop.serviceaccount.identity.linkerd.cluster.local';

/** A minimal hello with these extensions, to break it in places. */
function build(extensions: Buffer, change: (bytes: Buffer) => void = () => undefined): Buffer {
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    Buffer.from([0, 0, 2, 0x13, 1, 1, 0]),
    Buffer.from([extensions.length >> 8, extensions.length & 255]),
    extensions,
  ]);
  const handshake = Buffer.concat([Buffer.from([1, 0, body.length >> 8, body.length & 255]), body]);
  const record = Buffer.concat([
    Buffer.from([22, 3, 1, handshake.length >> 8, handshake.length & 255]),
    handshake,
  ]);
  change(record);
  return record;
}

function nameExtension(name: string, type = 0): Buffer {
  const text = Buffer.from(name, 'latin1');
  const entry = Buffer.concat([Buffer.from([type, text.length >> 8, text.length & 255]), text]);
  const list = Buffer.concat([Buffer.from([entry.length >> 8, entry.length & 255]), entry]);
  return Buffer.concat([Buffer.from([0, 0, list.length >> 8, list.length & 255]), list]);
}

describe('the server name of a ClientHello', () => {
  let hello: Buffer;
  before(async () => {
    hello = await helloOf({ servername: NAME, minVersion: 'TLSv1.3' });
  });

  test('of real clients of all versions', async () => {
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const bytes = await helloOf({ servername: NAME, maxVersion: version, ALPNProtocols: ['h2'] });
      assert.deepEqual(parseClientHello(bytes), { kind: 'hello', serverName: NAME });
    }
    const nameless = await helloOf({ host: '127.0.0.1' });
    assert.deepEqual(parseClientHello(nameless), { kind: 'hello', serverName: undefined });
  });

  test('is partial at every split before its end and known at every one after', () => {
    const more = Buffer.concat([hello, Buffer.from('early data')]);
    for (let length = 0; length < hello.length; length++) {
      assert.equal(parseClientHello(more, length).kind, 'partial', String(length));
      assert.equal(parseClientHello(hello.subarray(0, length)).kind, 'partial', String(length));
    }
    for (let length = hello.length; length <= more.length; length++) {
      assert.deepEqual(parseClientHello(more, length), { kind: 'hello', serverName: NAME });
    }
  });

  test('names compare without case', () => {
    assert.deepEqual(parseClientHello(build(nameExtension('API.Shop'))), {
      kind: 'hello',
      serverName: 'api.shop',
    });
  });

  test('other protocols are recognised by their first byte', () => {
    for (const text of ['G', 'GET / HTTP/1.1', 'P', '\x00', '\x15\x03', '\x80\x2e\x01']) {
      assert.equal(parseClientHello(Buffer.from(text, 'latin1')).kind, 'not-tls', JSON.stringify(text));
    }
  });

  test('a malformed hello is no TLS', () => {
    const name = nameExtension('api');
    const cases: Record<string, Buffer> = {
      'record version 3.0': build(name, (bytes) => bytes.writeUInt8(0, 2)),
      'another handshake message': build(name, (bytes) => bytes.writeUInt8(2, 5)),
      'a huge handshake': build(name, (bytes) => bytes.writeUInt8(1, 6)),
      'a hello over two records': build(name, (bytes) => bytes.writeUInt16BE(bytes.length - 6, 3)),
      'client version 3.1': build(name, (bytes) => bytes.writeUInt8(1, 10)),
      'session longer than the hello': build(name, (bytes) => bytes.writeUInt8(255, 43)),
      'extensions longer than the hello': build(name, (bytes) => bytes.writeUInt16BE(600, 50)),
      'an extension longer than the extensions': build(name, (bytes) => bytes.writeUInt16BE(99, 54)),
      'two names': build(Buffer.from([0, 0, 0, 12, 0, 10, 0, 0, 2, 0x61, 0x62, 0, 0, 2, 0x63, 0x64])),
      'an empty name': build(nameExtension('')),
      'another kind of name': build(nameExtension('api', 1)),
      'a name with a zero byte': build(nameExtension('a\x00b')),
      'a name with a space': build(nameExtension('a b')),
      'a name too long': build(nameExtension('a'.repeat(256))),
    };
    for (const [what, bytes] of Object.entries(cases)) {
      assert.equal(parseClientHello(bytes).kind, 'not-tls', what);
    }
  });

  test('a hello larger than the limit is no TLS before its bytes are there', () => {
    const large = build(Buffer.alloc(4, 0xff), (bytes) => {
      bytes.writeUInt16BE(CLIENT_HELLO_BYTES_MAX, 3);
      bytes.writeUInt16BE(CLIENT_HELLO_BYTES_MAX - 4, 7);
    });
    assert.equal(parseClientHello(large.subarray(0, 9)).kind, 'not-tls');
  });

  test('no bytes make it throw, and a verdict never changes with more bytes', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(),
        fc.nat(255),
        fc.boolean(),
        (noise, at, value, mutate) => {
          const bytes = Buffer.from(mutate ? hello : noise);
          if (mutate) bytes[at % bytes.length] = value;
          let decided: unknown;
          for (let length = 0; length <= bytes.length; length++) {
            const verdict = parseClientHello(bytes, length);
            if (decided !== undefined) assert.deepEqual(verdict, decided);
            else if (verdict.kind !== 'partial') decided = verdict;
          }
        },
      ),
      { numRuns: 100 },
    );
  });
});
