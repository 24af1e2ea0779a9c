// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import { detectProtocol, judgeProtocol } from './protocol.ts';

const judge = (text: string): string => judgeProtocol(Buffer.from(text, 'latin1'));

describe('protocol detection', () => {
  test('request lines are HTTP/1 as soon as their version is there', () => {
    for (const text of [
      'GET / HTTP/1.1',
      'GET / HTTP/1.1\r\nhost: a\r\n\r\n',
      'GET / HTTP/1.0\n\n',
      'POST /a?b=c%20d HTTP/1.1\r\n',
      'M-SEARCH * HTTP/1.1\r\n',
      'CONNECT a.example:443 HTTP/1.1\r\n',
      '\r\nGET / HTTP/1.1\r\n',
      'GET /\xc3\xa9\xc3\xa9\xc3\xa9 HTTP/1.1\r\n',
      'brew /pot HTTP/1.1\r\n',
    ]) {
      assert.equal(judge(text), 'http1', JSON.stringify(text));
    }
  });

  test('what can be no request line is opaque at once', () => {
    for (const text of [
      'SSH-2.0-OpenSSH_9.6',
      'SSH-2.0-OpenSSH_9.6\r\n',
      'EHLO a.example.org\r\n',
      'PING',
      'get key',
      'hello',
      'brew /pot',
      '\r\n',
      'OPTIONS-AND-MORE',
      '*1\r\n$4\r\nPING\r\n',
      'GET / HTTP/2.0\r\n',
      'GET / HTTP/1.2\r\nx: y\r\n',
      'GET  / HTTP/1.1\r\n',
      'GET / FTP/1.10000000',
      'GET key\r\n',
      'CONNECT\n',
      ' GET / HTTP/1.1\r\n',
      '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaa',
      '\x00',
    ]) {
      assert.equal(judge(text), 'opaque', JSON.stringify(text));
    }
  });

  test('every beginning of a request, and of the HTTP/2 preface, is waited for', () => {
    for (const [message, decided, protocol] of [
      ['DELETE /items/42?force=1 HTTP/1.1\r\nhost: shop.example\r\n\r\n', 33, 'http1'],
      ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 14, 'http2'],
      ['PROPFIND / HTTP/1.0\r\n\r\n', 19, 'http1'],
    ] as const) {
      for (let length = 0; length <= message.length; length++) {
        const expected = length < decided ? 'partial' : protocol;
        assert.equal(judge(message.slice(0, length)), expected, `${length} of ${message}`);
      }
    }
  });

  test('what never becomes complete is opaque, unless it is longer than any request line', () => {
    assert.equal(detectProtocol(Buffer.from('GET /')), 'opaque');
    assert.equal(detectProtocol(Buffer.from(`GET /${'a'.repeat(65_536)}`), true), 'http1');
    assert.equal(detectProtocol(Buffer.from('hello'), true), 'opaque');
  });
});
