// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { METHOD_CONNECT, METHOD_GET, METHOD_HEAD } from '#lib/http/methods.ts';
import { TARGET_BYTES_MAX } from '#lib/http/limits.ts';
import { defineField } from './hpack/field.ts';
import { HeaderList } from './hpack/header-list.ts';
import { LIST_FIELDS_MAX } from './limits.ts';
import {
  BAD_CONNECTION_FIELD,
  BAD_HOST,
  BAD_LENGTH,
  BAD_NAME,
  BAD_PSEUDO,
  BAD_VALUE,
  BODY_MISMATCH,
  BODY_UNKNOWN,
  bodyAfter,
  bodyMayEnd,
  HOSTS_DIFFER,
  LIST_TOO_LARGE,
  ORIGIN_ABSOLUTE,
  ORIGIN_NONE,
  originOf,
  PATH_TOO_LONG,
  requestBody,
  responseBody,
  VALID,
  validateRequest,
  validateResponse,
  validateTrailers,
  verdictTexts,
} from './message.ts';

type Pairs = readonly (readonly [name: string, value: string])[];

function listOf(pairs: Pairs): HeaderList {
  const list = new HeaderList();
  for (const [name, value] of pairs) list.add(defineField(name, value));
  return list;
}

const get: Pairs = [
  [':method', 'GET'],
  [':scheme', 'http'],
  [':path', '/'],
  [':authority', 'web'],
];
const request = (...more: Pairs): number => validateRequest(listOf([...get, ...more]));
const response = (...pairs: Pairs): number => validateResponse(listOf(pairs));
const without = (name: string): Pairs => get.filter((pair) => pair[0] !== name);
const replaced = (name: string, value: string): number =>
  validateRequest(listOf(get.map((pair) => (pair[0] === name ? [name, value] : pair))));

test('requests as they are', () => {
  assert.equal(request(), VALID);
  assert.equal(
    request(['accept', '*/*'], ['te', 'trailers'], ['x', ''], ['cookie', 'a'], ['cookie', 'b']),
    VALID,
  );
  assert.equal(request(['content-length', '12']), VALID);
  assert.equal(validateRequest(listOf(without(':authority'))), VALID);
  assert.equal(replaced(':method', 'M-SEARCH'), VALID);
  assert.equal(replaced(':scheme', 'https'), VALID);
  assert.equal(replaced(':path', '/caf\xe9?a=b'), VALID);
  assert.equal(request(['x', 'caf\xe9 \t!']), VALID);
});

test('pseudo-header fields: all, once, known, first', () => {
  for (const name of [':method', ':scheme', ':path'])
    assert.equal(validateRequest(listOf(without(name))), BAD_PSEUDO, name);
  for (const pair of get) {
    assert.equal(request(pair), BAD_PSEUDO, `${pair[0]} twice`);
    assert.equal(
      validateRequest(listOf([...without(pair[0]), ['x', 'y'], pair])),
      BAD_PSEUDO,
      `${pair[0]} late`,
    );
  }
  assert.equal(request([':status', '200']), BAD_PSEUDO);
  assert.equal(request([':protocol', 'websocket']), BAD_PSEUDO);
  assert.equal(request([':', '']), BAD_PSEUDO);
});

test('values of pseudo-header fields', () => {
  for (const method of ['', 'G T', 'GET\r', 'G'.repeat(65)])
    assert.equal(replaced(':method', method), BAD_VALUE, method);
  for (const path of ['', 'a', 'http://web/', '/ ', '/\0', '/\x7f', '*'])
    assert.equal(replaced(':path', path), BAD_VALUE, path);
  for (const scheme of ['', 'ht tp', 'http:']) assert.equal(replaced(':scheme', scheme), BAD_VALUE, scheme);
  for (const authority of ['', 'a b', 'user@web', 'web/', 'web\r\n'])
    assert.equal(replaced(':authority', authority), BAD_VALUE, authority);
  const options: Pairs = [
    [':method', 'OPTIONS'],
    [':scheme', 'http'],
    [':path', '*'],
  ];
  assert.equal(validateRequest(listOf(options)), VALID);
  assert.equal(replaced(':path', `/${'a'.repeat(TARGET_BYTES_MAX - 1)}`), VALID);
  assert.equal(replaced(':path', `/${'a'.repeat(TARGET_BYTES_MAX)}`), PATH_TOO_LONG);
});

test('CONNECT has an authority with a port, and nothing else', () => {
  const connect = (...more: Pairs): number => validateRequest(listOf([[':method', 'CONNECT'], ...more]));
  assert.equal(connect([':authority', 'db:5432']), VALID);
  assert.equal(connect([':authority', 'db']), BAD_VALUE);
  assert.equal(connect(), BAD_PSEUDO);
  assert.equal(connect([':authority', 'db:5432'], [':scheme', 'http']), BAD_PSEUDO);
  assert.equal(connect([':authority', 'db:5432'], [':path', '/']), BAD_PSEUDO);
});

test('names in upper case, with other characters, or none', () => {
  for (const name of ['X', 'aB', 'a b', 'a:', 'a\0', 'a\x80', '', 'a\r'])
    assert.equal(request([name, '1']), BAD_NAME, name);
});

test('values with control characters, or white space around them', () => {
  for (const value of ['a\r\nb', 'a\nb', 'a\0', 'a\x01', '\x7f', ' a', 'a ', '\ta', 'a\t', ' '])
    assert.equal(request(['x', value]), BAD_VALUE, JSON.stringify(value));
});

test("fields of HTTP/1's connections", () => {
  for (const name of ['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade']) {
    assert.equal(request([name, 'x']), BAD_CONNECTION_FIELD, name);
    assert.equal(response([':status', '200'], [name, 'x']), BAD_CONNECTION_FIELD, name);
  }
  for (const value of ['gzip', 'trailers, gzip', ''])
    assert.equal(request(['te', value]), BAD_CONNECTION_FIELD, value);
});

test('content-length: one, in digits', () => {
  for (const value of ['', '-1', '+1', '1,1', '1 ', '0x1', '1234567890123456', 'a'])
    assert.equal(request(['content-length', value]), BAD_VALUE, value);
  assert.equal(request(['content-length', '1'], ['content-length', '1']), BAD_LENGTH);
});

test('host: one, and the same as :authority, unless it was HTTP/1', () => {
  assert.equal(request(['host', 'web']), VALID);
  assert.equal(request(['host', 'WEB']), VALID);
  assert.equal(request(['host', 'other']), HOSTS_DIFFER);
  assert.equal(request(['host', '']), HOSTS_DIFFER);
  assert.equal(request(['host', 'web'], ['host', 'web']), BAD_HOST);
  assert.equal(request(['host', 'a b']), BAD_HOST);
  assert.equal(response([':status', '200'], ['host', 'a b'], ['host', 'a']), VALID);
  assert.equal(request(['host', 'other'], ['l5d-orig-proto', 'HTTP/1.1']), VALID);
  assert.equal(request(['host', ''], ['l5d-orig-proto', 'HTTP/1.0']), VALID);
  assert.equal(request(['host', 'other'], ['l5d-orig-proto', 'HTTP/3']), HOSTS_DIFFER);
  assert.equal(request(['host', 'a b'], ['l5d-orig-proto', 'HTTP/1.1']), BAD_HOST);
  assert.equal(request(['host', 'other'], ['l5d-orig-proto', 'HTTP/1.1; absolute-form']), VALID);
  assert.equal(validateRequest(listOf([...without(':authority'), ['host', 'other']])), VALID);
});

test('responses', () => {
  assert.equal(response([':status', '200'], ['content-type', 'text/plain']), VALID);
  assert.equal(response([':status', '103']), VALID);
  assert.equal(response(), BAD_PSEUDO);
  assert.equal(response([':status', '101']), BAD_PSEUDO);
  assert.equal(response([':status', '200'], [':status', '200']), BAD_PSEUDO);
  assert.equal(response(['a', 'b'], [':status', '200']), BAD_PSEUDO);
  for (const [name, value] of get)
    assert.equal(response([':status', '200'], [name, value]), BAD_PSEUDO, name);
  for (const status of ['', '20', '2000', '099', '2x0', '-20'])
    assert.equal(response([':status', status]), BAD_VALUE, status);
  assert.equal(response([':status', '200'], ['A', 'b']), BAD_NAME);
});

test('trailers have no pseudo-header fields', () => {
  assert.equal(validateTrailers(listOf([['grpc-status', '0']])), VALID);
  assert.equal(validateTrailers(listOf([])), VALID);
  assert.equal(validateTrailers(listOf([['A', 'b']])), BAD_NAME);
  assert.equal(validateTrailers(listOf([['connection', 'b']])), BAD_CONNECTION_FIELD);
  for (const [name, value] of [...get, [':status', '200'] as const])
    assert.equal(validateTrailers(listOf([[name, value]])), BAD_PSEUDO, name);
});

test('a list that is too large is that, whatever else it is', () => {
  const many = Array.from({ length: LIST_FIELDS_MAX }, () => ['x', 'y'] as const);
  assert.equal(request(...many), VALID);
  assert.equal(request(...many, ['x', 'y']), LIST_TOO_LARGE);
  assert.equal(request(['X', ''], ...many, ['x', 'y']), LIST_TOO_LARGE);
  assert.equal(response([':status', '200'], ...many, ['x', 'y']), LIST_TOO_LARGE);
  assert.equal(verdictTexts.length, HOSTS_DIFFER + 1);
});

test('what a message was before it travelled over HTTP/2', () => {
  const origin = (value: string): number => originOf(listOf([['l5d-orig-proto', value]]));
  assert.equal(originOf(listOf(get)), ORIGIN_NONE);
  assert.equal(origin('HTTP/1.1'), 1);
  assert.equal(origin('HTTP/1.0'), 0);
  assert.equal(origin('HTTP/1.1; absolute-form'), 1 | ORIGIN_ABSOLUTE);
  assert.equal(origin('HTTP/1.0; absolute-form'), ORIGIN_ABSOLUTE);
  assert.equal(origin('HTTP/2.0'), ORIGIN_NONE);
  assert.equal(request(['l5d-orig-proto', 'HTTP/1.1'], ['l5d-orig-proto', 'HTTP/1.1']), BAD_VALUE);
});

test('DATA is counted against content-length', () => {
  const length = (value: string): HeaderList =>
    listOf([
      [':status', '200'],
      ['content-length', value],
    ]);
  assert.equal(requestBody(length('5'), false), 5);
  assert.equal(requestBody(length('5'), true), BODY_MISMATCH);
  assert.equal(requestBody(length('0'), true), 0);
  assert.equal(requestBody(listOf(get), false), BODY_UNKNOWN);
  assert.equal(requestBody(listOf(get), true), 0);
  assert.equal(responseBody(length('5'), METHOD_GET, false), 5);
  assert.equal(responseBody(length('5'), METHOD_GET, true), BODY_MISMATCH);
  assert.equal(responseBody(length('5'), METHOD_HEAD, true), 0);
  assert.equal(responseBody(length('5'), METHOD_HEAD, false), 0);
  assert.equal(responseBody(length('5'), METHOD_CONNECT, false), BODY_UNKNOWN);
  assert.equal(responseBody(listOf([[':status', '200']]), METHOD_GET, true), 0);
  for (const status of ['204', '304'])
    assert.equal(
      responseBody(
        listOf([
          [':status', status],
          ['content-length', '5'],
        ]),
        METHOD_GET,
        true,
      ),
      0,
    );
  assert.equal(bodyAfter(5, 3), 2);
  assert.equal(bodyAfter(5, 5), 0);
  assert.equal(bodyAfter(5, 6), BODY_MISMATCH);
  assert.equal(bodyAfter(BODY_UNKNOWN, 6), BODY_UNKNOWN);
  assert.equal(bodyAfter(BODY_MISMATCH, 0), BODY_MISMATCH);
  assert.equal(bodyMayEnd(0), true);
  assert.equal(bodyMayEnd(BODY_UNKNOWN), true);
  assert.equal(bodyMayEnd(1), false);
  assert.equal(bodyMayEnd(BODY_MISMATCH), false);
});
