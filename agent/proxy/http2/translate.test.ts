// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { BodyDecoder } from '../http1/body.ts';
import { Head } from '../http1/head.ts';
import { NO_ERROR } from '#lib/http2/codes.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { Encoder } from '#lib/http2/hpack/encoder.ts';
import { defineField, type Field } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { VALID, validateRequest, validateResponse, validateTrailers } from '#lib/http2/message.ts';
import {
  blockBytesMax,
  requestText,
  responseText,
  trailerField,
  trailerLines,
  writeRequestHead,
  writeResponseHead,
} from './translate.ts';

const head = new Head();
const out = Buffer.alloc(300_000);

/** One hop: HTTP/1 to a header block and back to a list. */
class Hop {
  readonly encoder = new Encoder();
  readonly decoder = new Decoder();
  readonly list = new HeaderList();

  request(text: string, authority: Field | null = null, fallback: Field | null = null): HeaderList {
    // At an offset, and followed by something: nothing may be read from elsewhere.
    const buffer = Buffer.from(`junk${text}junk`, 'latin1');
    const end = head.parseRequest(buffer, 4, buffer.length - 4, false);
    assert.equal(end, buffer.length - 4, text);
    const block = writeRequestHead(this.encoder, out, 0, head, buffer, authority, fallback);
    assert.ok(block <= blockBytesMax(text.length));
    assert.equal(this.decoder.decode(out, 0, block, this.list), NO_ERROR);
    assert.equal(validateRequest(this.list), VALID, text);
    return this.list;
  }

  response(text: string): HeaderList {
    const buffer = Buffer.from(`junk${text}junk`, 'latin1');
    assert.equal(head.parseResponse(buffer, 4, buffer.length - 4, false), buffer.length - 4, text);
    const block = writeResponseHead(this.encoder, out, 0, head, buffer);
    assert.ok(block <= blockBytesMax(text.length));
    assert.equal(this.decoder.decode(out, 0, block, this.list), NO_ERROR);
    assert.equal(validateResponse(this.list), VALID, text);
    return this.list;
  }
}

function lines(list: HeaderList): string[] {
  const pseudo = [list.statusField, list.methodField, list.schemeField, list.authorityField, list.pathField];
  return [...pseudo, ...list.fields.slice(0, list.length)]
    .filter((field) => field !== null)
    .map((field) => field.line.trimEnd());
}

test('a request travels with its Host, and says what it was', () => {
  const list = new Hop().request(
    'POST /a?b HTTP/1.1\r\nHost: Web:80\r\nX-Two:  x y \r\nContent-Length: 3\r\nEmpty:\r\n\r\n',
  );
  assert.deepEqual(lines(list), [
    ':method: POST',
    ':scheme: http',
    ':authority: Web:80',
    ':path: /a?b',
    'host: Web:80',
    'x-two: x y',
    'content-length: 3',
    'empty:',
    'l5d-orig-proto: HTTP/1.1',
  ]);
  assert.equal(
    requestText(list, false),
    'POST /a?b HTTP/1.1\r\nhost: Web:80\r\nx-two: x y\r\ncontent-length: 3\r\nempty: \r\n',
  );
});

test('what belongs to the connection stays behind', () => {
  const list = new Hop().request(
    'POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n' +
      'Transfer-Encoding: chunked\r\nTE: gzip;q=1, Trailers\r\nUpgrade: h2c\r\nl5d-orig-proto: HTTP/9\r\nAccept: */*\r\n\r\n',
  );
  assert.deepEqual(lines(list).slice(4), [
    'host: a',
    'te: trailers',
    'accept: */*',
    'l5d-orig-proto: HTTP/1.1',
  ]);
  assert.equal(
    requestText(list, true),
    'POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\naccept: */*\r\ntransfer-encoding: chunked\r\n',
  );
  assert.deepEqual(
    lines(new Hop().request('GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, x-trailers\r\n\r\n')).slice(4),
    ['host: a', 'l5d-orig-proto: HTTP/1.1'],
  );
});

test('every form of target, there and back', () => {
  const forms: readonly (readonly [
    line: string,
    pseudo: readonly string[],
    origin: string,
    back?: string,
  ])[] = [
    ['GET / HTTP/1.0', ['http', 'host', '/'], 'HTTP/1.0'],
    ['PURGE /x HTTP/1.1', ['http', 'host', '/x'], 'HTTP/1.1'],
    ['OPTIONS * HTTP/1.1', ['http', 'host', '*'], 'HTTP/1.1'],
    ['GET http://b:1/x?y HTTP/1.1', ['http', 'b:1', '/x?y'], 'HTTP/1.1; absolute-form'],
    ['GET https://b/ HTTP/1.0', ['https', 'b', '/'], 'HTTP/1.0; absolute-form'],
    ['GET http://b HTTP/1.1', ['http', 'b', '/'], 'HTTP/1.1; absolute-form', 'GET http://b/ HTTP/1.1'],
    ['GET http://b?y HTTP/1.1', ['http', 'b', '/?y'], 'HTTP/1.1; absolute-form', 'GET http://b/?y HTTP/1.1'],
    ['OPTIONS http://b HTTP/1.1', ['http', 'b', '*'], 'HTTP/1.1; absolute-form'],
  ];
  for (const [line, [scheme, authority, path], origin, back] of forms) {
    const list = new Hop().request(`${line}\r\nHost: host\r\n\r\n`);
    assert.equal(list.methodField?.value, line.split(' ')[0]);
    assert.equal(list.schemeField?.value, scheme);
    assert.equal(list.authorityField?.value, authority);
    assert.equal(list.pathField?.value, path);
    assert.equal(list.originField?.value, origin);
    assert.equal(requestText(list, false), `${back ?? line}\r\nhost: host\r\n`);
  }
});

test('a request without Host gets an authority to be routed by, and no Host', () => {
  const fallback = defineField(':authority', 'web.default:80');
  const list = new Hop().request('GET / HTTP/1.0\r\n\r\n', null, fallback);
  assert.equal(list.authorityField?.value, 'web.default:80');
  assert.equal(requestText(list, false), 'GET / HTTP/1.0\r\n');
  const empty = new Hop().request('GET / HTTP/1.1\r\nHost:\r\n\r\n', null, fallback);
  assert.equal(empty.authorityField?.value, 'web.default:80');
  assert.equal(requestText(empty, false), 'GET / HTTP/1.1\r\nhost: \r\n');
  const named = new Hop().request('GET / HTTP/1.1\r\nHost: a\r\n\r\n', null, fallback);
  assert.equal(named.authorityField?.value, 'a');
  assert.equal(new Hop().request('GET / HTTP/1.0\r\n\r\n').authorityField, null);
  // In absolute form it is only added if it is missing.
  const absolute = new Hop().request('GET http://b/x HTTP/1.1\r\n\r\n');
  assert.equal(requestText(absolute, false), 'GET http://b/x HTTP/1.1\r\nhost: b\r\n');
});

test('responses, there and back', () => {
  const list = new Hop().response(
    'HTTP/1.1 404 Gone fishing\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nServer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n',
  );
  assert.deepEqual(lines(list), [
    ':status: 404',
    'server: x',
    'set-cookie: a=1',
    'set-cookie: b=2',
    'l5d-orig-proto: HTTP/1.1',
  ]);
  assert.equal(
    responseText(list, 1, true),
    'HTTP/1.1 404 Not Found\r\nserver: x\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ntransfer-encoding: chunked\r\n',
  );
  const old = new Hop().response('HTTP/1.0 299\r\nContent-Length: 0\r\n\r\n');
  assert.equal(old.originField?.value, 'HTTP/1.0');
  assert.equal(responseText(old, 0, false), 'HTTP/1.0 299 \r\ncontent-length: 0\r\n');
  assert.equal(
    responseText(new Hop().response('HTTP/1.1 103 x\r\nLink: y\r\n\r\n'), 1, false),
    'HTTP/1.1 103 Early Hints\r\nlink: y\r\n',
  );
});

test('crumbs of cookies become one field', () => {
  const list = new HeaderList();
  for (const [name, value] of [
    [':method', 'GET'],
    [':path', '/'],
    ['cookie', 'a=1'],
    ['x', 'y'],
    ['cookie', 'b=2'],
  ] as const)
    list.add(defineField(name, value));
  list.add(defineField('l5d-orig-proto', 'HTTP/1.1'));
  assert.equal(requestText(list, false), 'GET / HTTP/1.1\r\nx: y\r\ncookie: a=1; b=2\r\n');
});

test('trailers: HTTP/1 to HTTP/2 without those that frame, route or authenticate, and back', () => {
  const text = '3\r\nabc\r\n0\r\nGrpc-Status:  0 \r\nContent-Length: 3\r\nX-Empty:\r\n\r\n';
  const body = new BodyDecoder(head);
  for (let cut = 1; cut < text.length; cut++) {
    const list = new HeaderList();
    let data = '';
    const sink = {
      onBody(buffer: Buffer, start: number, end: number): void {
        data += buffer.toString('latin1', start, end);
      },
      onTrailer(buffer: Buffer, start: number, end: number): void {
        list.add(trailerField(buffer, start, end));
      },
    };
    body.startChunked(true);
    const bytes = Buffer.from(text, 'latin1');
    body.push(bytes, 0, cut, sink);
    body.push(bytes, cut, bytes.length, sink);
    assert.equal(body.done, true);
    assert.equal(data, 'abc');
    assert.equal(validateTrailers(list), VALID);
    assert.deepEqual(lines(list), ['grpc-status: 0', 'x-empty:']);
    for (const name of ['content-length', 'host', 'l5d-client-id', 'authorization'])
      list.add(defineField(name, '1'));
    assert.equal(trailerLines(list), 'grpc-status: 0\r\nx-empty: \r\n');
  }
});

const token = fc.string({
  unit: fc.constantFrom(...Array.from('abcXYZ019-_.!')),
  minLength: 1,
  maxLength: 12,
});
const fieldName = token.map((name) => `x${name}`);
const text = fc
  .string({
    unit: fc
      .integer({ min: 32, max: 255 })
      .filter((code) => code !== 127)
      .map((code) => String.fromCharCode(code)),
    maxLength: 80,
  })
  .map((value) => value.replace(/^[ \t]+|[ \t]+$/g, ''));
const fields = fc.array(fc.tuple(fieldName, text), { maxLength: 12 });

test('any head of HTTP/1 is the same after a hop, but for the case of names', () => {
  const hop = new Hop();
  const reply = new Hop();
  fc.assert(
    fc.property(
      token,
      fields,
      fc.boolean(),
      fc.integer({ min: 200, max: 599 }),
      (method, pairs, old, status) => {
        const minor = old ? 0 : 1;
        const sent = pairs.map(([name, value]) => `${name}: ${value}\r\n`).join('');
        const expected = pairs.map(([name, value]) => `${name.toLowerCase()}: ${value}\r\n`).join('');
        const list = hop.request(`${method} /${pairs.length} HTTP/1.${minor}\r\nHost: a\r\n${sent}\r\n`);
        assert.equal(
          requestText(list, false),
          `${method} /${pairs.length} HTTP/1.${minor}\r\nhost: a\r\n${expected}`,
        );
        const answer = reply.response(`HTTP/1.${minor} ${status} x\r\n${sent}\r\n`);
        assert.equal(responseText(answer, minor, false).replace(/^.*\r\n/, ''), expected);
      },
    ),
    { numRuns: 1500 },
  );
});

test('a body without HTTP/1 framing loses its trailers when nobody wants them', () => {
  const body = new BodyDecoder(head);
  let data = '';
  const bytes = Buffer.from('3\r\nabc\r\n0\r\nA: b\r\n\r\n', 'latin1');
  body.startChunked(true);
  body.push(bytes, 0, bytes.length, {
    onBody(buffer, start, end) {
      data += buffer.toString('latin1', start, end);
    },
  });
  assert.equal(data, 'abc');
  assert.equal(body.done, true);
});
