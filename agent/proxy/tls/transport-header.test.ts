// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import {
  decodeTransportHeader,
  encodeTransportHeader,
  TRANSPORT_HEADER_BYTES_MAX,
} from './transport-header.ts';

const PREFACE = 'transport.l5d.io/v1\r\n\r\n';

const framed = (...message: number[]): Buffer =>
  Buffer.concat([
    Buffer.from(PREFACE),
    Buffer.from([0, 0, message.length >> 8, message.length & 255]),
    Buffer.from(message),
  ]);

describe('the transport header', () => {
  test('is written byte for byte as Linkerd writes it', () => {
    assert.deepEqual(encodeTransportHeader(4040, undefined), framed(0x08, 0xc8, 0x1f));
    assert.deepEqual(encodeTransportHeader(80, 'http1'), framed(0x08, 80, 0x1a, 2, 0x0a, 0));
    assert.deepEqual(encodeTransportHeader(65535, 'http2'), framed(0x08, 0xff, 0xff, 0x03, 0x1a, 2, 0x12, 0));
  });

  test('may carry a name', () => {
    const header = encodeTransportHeader(80, 'http2', 'a.b');
    assert.deepEqual(header, framed(0x08, 80, 0x12, 3, 0x61, 0x2e, 0x62, 0x1a, 2, 0x12, 0));
    assert.deepEqual(decodeTransportHeader(header), {
      kind: 'header',
      header: { port: 80, name: 'a.b', protocol: 'http2' },
      bytes: header.length,
    });
  });

  test('a name may be as long as that of a host', () => {
    const name = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(63)}.${'d'.repeat(61)}`;
    const decoded = decodeTransportHeader(encodeTransportHeader(4143, 'http1', name));
    assert.deepEqual(decoded.kind === 'header' && decoded.header, { port: 4143, name, protocol: 'http1' });
  });

  test('is read back at every split, with what follows untouched', () => {
    for (const [port, protocol] of [
      [1, undefined],
      [127, 'http1'],
      [128, 'http2'],
      [65535, undefined],
    ] as const) {
      const header = encodeTransportHeader(port, protocol);
      const bytes = Buffer.concat([header, Buffer.from('GET /')]);
      for (let length = 0; length < header.length; length++) {
        assert.equal(decodeTransportHeader(bytes, length).kind, 'partial', String(length));
      }
      for (let length = header.length; length <= bytes.length; length++) {
        assert.deepEqual(decodeTransportHeader(bytes, length), {
          kind: 'header',
          header: { port, name: '', protocol },
          bytes: header.length,
        });
      }
    }
  });

  test("a gateway's name is read", () => {
    const bytes = framed(0x08, 80, 0x12, 7, ...Buffer.from('foo.bar'), 0x1a, 2, 0x12, 0);
    assert.deepEqual(decodeTransportHeader(bytes), {
      kind: 'header',
      header: { port: 80, name: 'foo.bar', protocol: 'http2' },
      bytes: bytes.length,
    });
  });

  test('unknown fields are passed over, the last of a field counts', () => {
    const bytes = framed(
      0x08,
      1,
      0x20,
      5,
      0x2a,
      1,
      9,
      0x35,
      1,
      2,
      3,
      4,
      0x39,
      1,
      2,
      3,
      4,
      5,
      6,
      7,
      8,
      0x08,
      2,
    );
    const decoded = decodeTransportHeader(bytes);
    assert.ok(decoded.kind === 'header' && decoded.header.port === 2);
  });

  test('anything else is refused, by its first wrong byte', () => {
    assert.equal(decodeTransportHeader(Buffer.from('G')).kind, 'invalid');
    assert.equal(decodeTransportHeader(Buffer.from('transport.l5d.io/v2')).kind, 'invalid');
    const cases: Record<string, Buffer> = {
      'port 0': framed(0x08, 0),
      'no port': framed(),
      'port 65536': framed(0x08, 0x80, 0x80, 4),
      'a negative port': framed(0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
      'a cut varint': framed(0x08, 0x80),
      'an endless varint': framed(0x08, ...Array<number>(11).fill(0x80)),
      'a string beyond the message': framed(0x08, 1, 0x12, 9, 0x61),
      'a group': framed(0x08, 1, 0x0b),
      'field 0': framed(0x08, 1, 0x00, 1),
      'a broken session protocol': framed(0x08, 1, 0x1a, 2, 0x0a, 5),
      'a long message': Buffer.concat([Buffer.from(PREFACE), Buffer.from([0, 0, 0x10, 0])]),
      'a huge message': Buffer.concat([Buffer.from(PREFACE), Buffer.from([255, 255, 255, 255])]),
    };
    for (const [what, bytes] of Object.entries(cases)) {
      assert.equal(decodeTransportHeader(bytes).kind, 'invalid', what);
    }
  });

  test('the longest allowed message is read, one byte more is refused', () => {
    const rest = TRANSPORT_HEADER_BYTES_MAX - PREFACE.length - 4;
    const nameBytes = rest - 2 - 3;
    const name = Buffer.alloc(nameBytes, 0x61);
    const longest = framed(0x08, 80, 0x12, (nameBytes & 0x7f) | 0x80, nameBytes >> 7, ...name);
    assert.equal(longest.length, TRANSPORT_HEADER_BYTES_MAX);
    assert.equal(decodeTransportHeader(longest).kind, 'header');
    const longer = Buffer.from(longest);
    longer.writeUInt32BE(rest + 1, PREFACE.length);
    assert.equal(decodeTransportHeader(longer).kind, 'invalid');
  });

  test('no message makes it throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (message) => {
        const decoded = decodeTransportHeader(framed(...message));
        assert.notEqual(decoded.kind, 'partial');
      }),
    );
  });
});
