// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { METHOD_CONNECT, METHOD_GET, METHOD_OTHER } from '#lib/http/methods.ts';
import {
  BAD_MESSAGE,
  BAD_VERSION,
  FORM_ABSOLUTE,
  FORM_AUTHORITY,
  Head,
  INCOMPLETE,
  TARGET_TOO_LONG,
  TOO_LARGE,
} from './head.ts';
import { HEAD_BYTES_MAX, HEAD_FIELDS_MAX, TARGET_BYTES_MAX } from '#lib/http/limits.ts';

const head = new Head();
const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');
const request = (text: string): number => head.parseRequest(bytes(text), 0, text.length, false);
const response = (text: string): number => head.parseResponse(bytes(text), 0, text.length, false);

/** The head as it travels on. */
function forwarded(text: string, strips = false): string {
  const buffer = bytes(text);
  const end = head.parseRequest(buffer, 0, buffer.length, strips);
  assert.ok(end > 0, `refused with ${end}: ${JSON.stringify(text)}`);
  return buffer.toString('latin1', head.compact(buffer, head.upgrade), end);
}

function forwardedResponse(text: string, strips = false): string {
  const buffer = bytes(text);
  const end = head.parseResponse(buffer, 0, buffer.length, strips);
  assert.ok(end > 0, `refused with ${end}: ${JSON.stringify(text)}`);
  return buffer.toString('latin1', head.compact(buffer, head.upgrade), end);
}

test('a plain request passes byte for byte', () => {
  const text = 'GET /a?b=c HTTP/1.1\r\nHost: shop:80\r\nX-Two:\t x y \r\nEmpty:\r\n\r\n';
  assert.equal(forwarded(text), text);
  assert.equal(head.method, METHOD_GET);
  assert.equal(head.minor, 1);
  assert.equal(head.keepAlive, true);
  assert.equal(head.contentLength, -1);
  assert.equal(text.slice(head.hostStart, head.hostEnd), 'shop:80');
});

test('bytes after the head are left alone', () => {
  const text = 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n';
  assert.equal(request(`${text}abcGET /`), text.length);
  assert.equal(head.contentLength, 3);
});

test('hop-by-hop fields and those that Connection nominates are closed up', () => {
  assert.equal(
    forwarded(
      'GET / HTTP/1.1\r\nX-Hop: 1\r\nHost: a\r\nConnection: close, x-hop , TE\r\nKeep-Alive: 5\r\nTE: trailers\r\n' +
        'Proxy-Connection: keep-alive\r\nAccept: */*\r\nx-HOP: 2\r\nX-Hop2: 3\r\n\r\n',
    ),
    'GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nX-Hop2: 3\r\n\r\n',
  );
  assert.equal(head.keepAlive, false);
});

test('Connection cannot nominate away what frames or routes the message', () => {
  const kept = 'Host: a\r\nContent-Length: 1\r\n\r\n';
  assert.equal(
    forwarded(`POST / HTTP/1.1\r\nConnection: host, content-length\r\n${kept}`),
    `POST / HTTP/1.1\r\n${kept}`,
  );
});

test('an upgrade keeps its connection fields, h2c does not', () => {
  const websocket = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  assert.equal(forwarded(websocket), websocket);
  assert.equal(head.upgrade, true);
  assert.equal(
    forwarded(
      'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n',
    ),
    'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
  );
  assert.equal(head.upgrade, false);
  // Whatever else is offered: behind it requests would pass unseen.
  for (const offers of [
    'websocket, h2c',
    'H2C ,websocket',
    'h2c\r\nUpgrade: h2c',
    'h2c\r\nUpgrade: websocket',
    'websocket\r\nUpgrade: h2c',
  ]) {
    assert.equal(
      forwarded(`GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ${offers}\r\n\r\n`),
      'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
    );
    assert.equal(head.upgrade, false, offers);
  }
  forwarded('GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n');
  assert.equal(head.upgrade, false, 'HTTP/1.0 has no upgrades');
});

test('a client cannot pass for another one', () => {
  const text = 'GET / HTTP/1.1\r\nL5D-Client-Id: root\r\nHost: a\r\nl5d-client-id: x\r\n\r\n';
  assert.equal(forwarded(text, true), 'GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal(forwarded(text, false), text);
});

test('errors of a proxy further on are not shown as ours', () => {
  assert.equal(
    forwardedResponse(
      'HTTP/1.1 502 X\r\nl5d-proxy-error: a\r\nl5d-proxy-connection: close\r\nA: b\r\n\r\n',
      true,
    ),
    'HTTP/1.1 502 X\r\nA: b\r\n\r\n',
  );
});

test('forms of the target', () => {
  assert.ok(request('GET http://Host.example:81/p?q HTTP/1.1\r\nHost: other\r\n\r\n') > 0);
  assert.equal(head.form, FORM_ABSOLUTE);
  assert.equal(head.hostEnd - head.hostStart, 'Host.example:81'.length);
  assert.ok(request('CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n') > 0);
  assert.equal(head.form, FORM_AUTHORITY);
  assert.equal(head.method, METHOD_CONNECT);
  assert.ok(request('OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n') > 0);
  assert.ok(request('BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n') > 0);
  assert.equal(head.method, METHOD_OTHER);
  for (const target of ['/origin', '/', 'http://test/bar', 'http://test', '*', 'test', 'test:', ':80']) {
    assert.equal(request(`CONNECT ${target} HTTP/1.1\r\nHost: x\r\n\r\n`), BAD_MESSAGE, target);
  }
  for (const target of ['test', 'test:80', '*', 'http:/x', 'http://', '://x', 'http://user@host/', '?a']) {
    assert.equal(request(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`), BAD_MESSAGE, target);
  }
});

const smuggling: readonly (readonly [name: string, fields: string, version?: string])[] = [
  ['length and coding', 'Content-Length: 4\r\nTransfer-Encoding: chunked'],
  ['coding and length', 'Transfer-Encoding: chunked\r\nContent-Length: 4'],
  ['two lengths', 'Content-Length: 4\r\nContent-Length: 5'],
  ['two equal lengths', 'Content-Length: 4\r\nContent-Length: 4'],
  ['a list of lengths', 'Content-Length: 4, 4'],
  ['signed length', 'Content-Length: +4'],
  ['negative length', 'Content-Length: -4'],
  ['hexadecimal length', 'Content-Length: 0x4'],
  ['empty length', 'Content-Length:'],
  ['length with a space inside', 'Content-Length: 4 4'],
  ['length with underscore', 'Content-Length: 1_0'],
  ['overflowing length', 'Content-Length: 18446744073709551617'],
  ['two codings fields', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked'],
  ['identity hidden behind chunked', 'Transfer-Encoding: chunked, identity'],
  ['chunked twice', 'Transfer-Encoding: chunked, chunked'],
  ['coding without chunked', 'Transfer-Encoding: gzip'],
  ['misspelt coding', 'Transfer-Encoding: xchunked'],
  ['quoted coding', 'Transfer-Encoding: "chunked"'],
  ['coding after vertical tab', 'Transfer-Encoding: \x0bchunked'],
  ['a tab before the coding', 'Transfer-Encoding:\tchunked'],
  ['a tab behind the coding', 'Transfer-Encoding: chunked\t'],
  ['a tab between codings', 'Transfer-Encoding: gzip,\tchunked'],
  ['coding with parameter', 'Transfer-Encoding: chunked;q=1'],
  ['empty coding', 'Transfer-Encoding:'],
  ['coding and a comma', 'Transfer-Encoding: chunked,'],
  ['coding on HTTP/1.0', 'Transfer-Encoding: chunked', '1.0'],
  ['space before the colon', 'Transfer-Encoding : chunked'],
  ['tab before the colon', 'Content-Length\t: 4'],
  ['folded line', 'X: a\r\n b: c'],
  ['folded coding', 'Transfer-Encoding:\r\n chunked'],
  ['field starting with a space', ' X: a'],
  ['bare LF', 'X: a\nTransfer-Encoding: chunked'],
  ['bare CR', 'X: a\rTransfer-Encoding: chunked'],
  ['CR CR LF', 'X: a\r\r\nY: b'],
  ['NUL in a value', 'X: a\0b'],
  ['control character in a value', 'X: a\x01b'],
  ['DEL in a value', 'X: a\x7fb'],
  ['NUL in a name', 'X\0: a'],
  ['no name', ': a'],
  ['no colon', 'Host'],
  ['name with a quote', 'X"Y: a'],
  ['name above ASCII', 'X\xe9: a'],
  ['second Host', 'Host: b'],
  ['Host with a path', 'Host: b/c', 'no-host'],
  ['Host with user information', 'Host: u@b', 'no-host'],
  ['Host with a space', 'Host: a b', 'no-host'],
];

for (const [name, fields, version] of smuggling) {
  test(`refused: ${name}`, () => {
    const host = version === 'no-host' ? '' : 'Host: a\r\n';
    const text = `POST / HTTP/${version === '1.0' ? '1.0' : '1.1'}\r\n${host}${fields}\r\n\r\n0\r\n\r\n`;
    assert.equal(request(text), BAD_MESSAGE);
    // The verdict comes with the byte that is wrong and stays.
    let verdict = INCOMPLETE;
    for (let cut = 0; cut <= text.length; cut++) {
      const now = head.parseRequest(bytes(text), 0, cut, false);
      if (verdict !== INCOMPLETE) assert.equal(now, verdict);
      assert.ok(now === INCOMPLETE || now === BAD_MESSAGE);
      verdict = now;
    }
  });
}

test('wrong request lines', () => {
  const table: readonly (readonly [string, number])[] = [
    [' / HTTP/1.1', BAD_MESSAGE],
    ['G@T / HTTP/1.1', BAD_MESSAGE],
    ['GET  / HTTP/1.1', BAD_MESSAGE],
    ['GET /  HTTP/1.1', BAD_MESSAGE],
    ['GET / HTTP/1.1 ', BAD_MESSAGE],
    ['GET /\x00 HTTP/1.1', BAD_MESSAGE],
    ['GET\t/ HTTP/1.1', BAD_MESSAGE],
    ['GET / http/1.1', BAD_MESSAGE],
    ['GET / HTTP/1.', BAD_MESSAGE],
    ['GET / HTTP/1.10', BAD_MESSAGE],
    ['GET / HTTP/11', BAD_MESSAGE],
    ['GET /', BAD_MESSAGE],
    ['GET', BAD_MESSAGE],
    ['GET / HTTP/2.0', BAD_VERSION],
    ['GET / HTTP/1.2', BAD_VERSION],
    ['GET / HTTP/0.9', BAD_VERSION],
    ['PRI * HTTP/2.0', BAD_VERSION],
    [`${'A'.repeat(65)} / HTTP/1.1`, BAD_MESSAGE],
    [`GET /${'a'.repeat(TARGET_BYTES_MAX)} HTTP/1.1`, TARGET_TOO_LONG],
  ];
  for (const [line, verdict] of table)
    assert.equal(request(`${line}\r\nHost: a\r\n\r\n`), verdict, line.slice(0, 40));
  assert.equal(request('\n\nGET / HTTP/1.1\r\n\r\n'), BAD_MESSAGE);
  assert.equal(request('GET / HTTP/1.1\n\n'), BAD_MESSAGE);
});

test('empty lines before a request are skipped, up to a limit', () => {
  const text = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n';
  assert.equal(forwarded(`\r\n\r\n${text}`), text);
  assert.equal(request(`${'\r\n'.repeat(5)}${text}`), BAD_MESSAGE);
});

test('limits: one at, one past', () => {
  assert.ok(request(`GET /${'a'.repeat(TARGET_BYTES_MAX - 1)} HTTP/1.1\r\n\r\n`) > 0);
  const fields = (count: number): string => 'A: b\r\n'.repeat(count);
  assert.ok(request(`GET / HTTP/1.1\r\n${fields(HEAD_FIELDS_MAX)}\r\n`) > 0);
  assert.equal(request(`GET / HTTP/1.1\r\n${fields(HEAD_FIELDS_MAX + 1)}\r\n`), TOO_LARGE);
  const line = 'GET / HTTP/1.1\r\nA: \r\n\r\n';
  const filled = (size: number): string => `GET / HTTP/1.1\r\nA: ${'b'.repeat(size - line.length)}\r\n\r\n`;
  assert.ok(request(filled(HEAD_BYTES_MAX)) > 0);
  assert.equal(request(filled(HEAD_BYTES_MAX + 1)), TOO_LARGE);
  const nominated = (count: number): string =>
    `GET / HTTP/1.1\r\nConnection: ${Array.from({ length: count }, (_, n) => `x${n}`).join(',')}\r\n\r\n`;
  assert.ok(request(nominated(32)) > 0);
  assert.equal(request(nominated(33)), TOO_LARGE);
});

test('keep-alive by version and Connection', () => {
  const table: readonly (readonly [string, string, boolean])[] = [
    ['1.1', '', true],
    ['1.1', 'Connection: close\r\n', false],
    ['1.1', 'Connection: Keep-Alive\r\n', true],
    ['1.1', 'Connection: keep-alive, CLOSE\r\n', false],
    ['1.0', '', false],
    ['1.0', 'Connection: keep-alive\r\n', true],
    ['1.0', 'Connection: keep-alive\r\nConnection: close\r\n', false],
  ];
  for (const [version, fields, keeps] of table) {
    assert.ok(request(`GET / HTTP/${version}\r\n${fields}\r\n`) > 0);
    assert.equal(head.keepAlive, keeps, version + fields);
    assert.ok(response(`HTTP/${version} 200 OK\r\n${fields}\r\n`) > 0);
    assert.equal(head.keepAlive, keeps, version + fields);
  }
});

test('responses', () => {
  assert.ok(response('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n') > 0);
  assert.equal(head.status, 200);
  assert.equal(head.contentLength, 5);
  assert.ok(response('HTTP/1.0 404\r\n\r\n') > 0, 'no reason and no space');
  assert.ok(response('HTTP/1.1 200 \r\n\r\n') > 0, 'no reason');
  assert.ok(response('HTTP/1.1 200 caf\xe9\r\n\r\n') > 0);
  for (const text of [
    'HTTP/1.1 20 OK\r\n\r\n',
    'HTTP/1.1 2000 OK\r\n\r\n',
    'HTTP/1.1 099 OK\r\n\r\n',
    'HTTP/1.1  200 OK\r\n\r\n',
    'HTTP/1.1 200 O\0K\r\n\r\n',
    'HTTP/1.1 200 OK\n\n',
    '\r\nHTTP/1.1 200 OK\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
    'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n',
    'ICY 200 OK\r\n\r\n',
  ]) {
    assert.equal(response(text), BAD_MESSAGE, JSON.stringify(text));
  }
  assert.equal(response('HTTP/2.0 200 OK\r\n\r\n'), BAD_VERSION);
});

const token = fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}$/);
const value = fc.stringMatching(/^[!-~\u0080-\u00ff]([ \t!-~\u0080-\u00ff]{0,20}[!-~\u0080-\u00ff])?$/);
const special =
  /^(connection|keep-alive|proxy-connection|upgrade|content-length|transfer-encoding|host|te|expect)$/i;
const field = fc.tuple(
  token.filter((name) => !special.test(name)),
  fc.option(value, { nil: '' }),
);

test('any well-formed head: complete only at its end, and what travels on is what came', () => {
  fc.assert(
    fc.property(
      token,
      fc.stringMatching(/^\/[!-~]{0,30}$/),
      fc.array(field, { maxLength: 12 }),
      (method, path, list) => {
        fc.pre(method !== 'CONNECT');
        const lines = list.map(([name, text]) => `${name}: ${text}\r\n`).join('');
        const text = `${method} ${path} HTTP/1.1\r\n${lines}\r\n`;
        const buffer = bytes(`${text}rest`);
        for (let cut = 0; cut < text.length; cut++)
          assert.equal(head.parseRequest(buffer, 0, cut, true), INCOMPLETE);
        assert.equal(head.parseRequest(buffer, 0, buffer.length, false), text.length);
        assert.equal(buffer.toString('latin1', head.compact(buffer, false), text.length), text);
      },
    ),
  );
});

test('any fields nominated by Connection vanish, all others stay in order', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(field, fc.boolean()), { maxLength: 20 }), fc.nat(20), (list, place) => {
      const gone = new Set(list.filter(([, drop]) => drop).map(([[name]]) => name.toLowerCase()));
      const lines = list.map(([[name, text]]) => [name, `${name}:${text}\r\n`] as const);
      const kept = lines.filter(([name]) => !gone.has(name.toLowerCase())).map(([, line]) => line);
      const all: string[] = lines.map(([, line]) => line);
      all.splice(Math.min(place, all.length), 0, `Connection: ${[...gone].join(', ')}\r\n`);
      fc.pre(![...gone].some((name) => name === 'close' || name === 'keep-alive'));
      assert.equal(
        forwarded(`GET / HTTP/1.1\r\n${all.join('')}\r\n`),
        `GET / HTTP/1.1\r\n${kept.join('')}\r\n`,
      );
    }),
  );
});

test('arbitrary bytes never throw and never give a position outside', () => {
  const noise = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array)),
    fc
      .array(
        fc.constantFrom(
          'GET',
          ' ',
          '/',
          'HTTP/1.1',
          '\r\n',
          ':',
          'Host',
          'a',
          '\n',
          '\r',
          'chunked',
          '\t',
          '0',
        ),
        { maxLength: 30 },
      )
      .map((parts) => bytes(parts.join(''))),
  );
  fc.assert(
    fc.property(noise, (buffer) => {
      for (const at of [
        head.parseRequest(buffer, 0, buffer.length, true),
        head.parseResponse(buffer, 0, buffer.length, true),
      ]) {
        assert.ok(Number.isInteger(at) && at >= BAD_VERSION && at <= buffer.length);
      }
    }),
  );
});
