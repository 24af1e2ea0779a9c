// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import { detectProtocol } from './protocol.ts';

const detect = (text: string): string => detectProtocol(Buffer.from(text, 'latin1'));

describe('protocol detection on one read', () => {
  test('request lines, whole or in part, are HTTP/1', () => {
    for (const text of [
      'GET / HTTP/1.1',
      'GET / HTTP/1.1\r\nhost: a\r\n\r\n',
      'GET / HTTP/1.0\n\n',
      'POST /a?b=c%20d HTTP/1.1\r\n',
      'M-SEARCH * HTTP/1.1\r\n',
      'CONNECT a.example:443 HTTP/1.1\r\n',
      '\r\nGET / HTTP/1.1\r\n',
      'GET /a/long/path/whose',
      'SSH-2.0-OpenSSH_9.6',
      'OPTIONS-AND-MORE',
      'GET /a/path HTTP/1',
      'GET /\xc3\xa9\xc3\xa9\xc3\xa9 HTTP/1.1\r\n',
    ]) {
      assert.equal(detect(text), 'http1', JSON.stringify(text));
    }
  });

  test('what can be no request line is opaque', () => {
    for (const text of [
      '',
      'G',
      'GET / HTTP/1.',
      'SSH-2.0-OpenSSH_9.6\r\n',
      'EHLO a.example.org\r\n',
      '*1\r\n$4\r\nPING\r\n',
      'GET / HTTP/2.0\r\n',
      'GET / HTTP/1.2\r\nx: y\r\n',
      'GET  / HTTP/1.1\r\n',
      'GET / FTP/1.10000000',
      ' GET / HTTP/1.1\r\n',
      '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaa',
      '\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00',
      'GET / HTTP/1.1\r\n\x00',
    ]) {
      assert.equal(detect(text), 'opaque', JSON.stringify(text));
    }
  });

  test('the HTTP/2 preface is HTTP/2 from its first fourteen bytes on', () => {
    assert.equal(detect('PRI * HTTP/2.0'), 'http2');
    assert.equal(detect('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), 'http2');
    assert.equal(detect('PRI * HTTP/2.'), 'opaque');
  });

  test('only the given length counts', () => {
    const buffer = Buffer.from('GET / HTTP/1.1\r\n\x00\x00\x00');
    assert.equal(detectProtocol(buffer, 14), 'http1');
    assert.equal(detectProtocol(buffer, 13), 'opaque');
  });

  test('a valid request is never opaque once fourteen bytes are there, whatever the first read took', () => {
    const request = 'DELETE /items/42?force=1 HTTP/1.1\r\nhost: shop.example\r\naccept: */*\r\n\r\n';
    for (let length = 14; length <= request.length; length++) {
      assert.equal(detect(request.slice(0, length)), 'http1', String(length));
    }
  });
});
