// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import type { FieldChanges } from '../model.ts';
import {
  changeList,
  changeText,
  type Redirect,
  REDIRECT_INVALID,
  REDIRECT_NOWHERE,
  redirectLocation,
} from './filters.ts';

const redirectTo = (url: string, redirect: Partial<Redirect>, prefixLength = -1) => {
  const { protocol, host, pathname, search } = new URL(url);
  const request = { scheme: protocol.slice(0, -1), host, path: pathname, query: search };
  return redirectLocation({ kind: 'redirect', status: 301, ...redirect }, request, prefixLength);
};

describe('redirects (C-304)', () => {
  const from = 'http://shop.example:8080/foo/bar?q=1';
  const cases: readonly (readonly [
    string,
    string,
    Partial<Redirect>,
    number,
    ReturnType<typeof redirectTo>,
  ])[] = [
    ['nothing to change: the request goes on', from, {}, -1, REDIRECT_NOWHERE],
    [
      'to its own address: the request goes on',
      from,
      { host: 'shop.example', port: 8080 },
      -1,
      REDIRECT_NOWHERE,
    ],
    ['another host keeps the port', from, { host: 'b.example' }, -1, 'http://b.example:8080/foo/bar?q=1'],
    ['another port', from, { port: 81 }, -1, 'http://shop.example:81/foo/bar?q=1'],
    ['the scheme’s own port is left out', from, { port: 80 }, -1, 'http://shop.example/foo/bar?q=1'],
    ['another scheme has its own port', from, { scheme: 'https' }, -1, 'https://shop.example/foo/bar?q=1'],
    ['443 is https’s own', from, { scheme: 'https', port: 443 }, -1, 'https://shop.example/foo/bar?q=1'],
    [
      'a whole path, the query stays',
      from,
      { path: { kind: 'full', value: '/x' } },
      -1,
      'http://shop.example:8080/x?q=1',
    ],
    [
      'a whole path without a query',
      'http://a/foo',
      { path: { kind: 'full', value: '/x' } },
      -1,
      'http://a/x',
    ],
    ['a prefix', from, { path: { kind: 'prefix', value: '/x' } }, 4, 'http://shop.example:8080/x/bar?q=1'],
    [
      'a prefix without a query',
      'http://a/foo/b',
      { path: { kind: 'prefix', value: '/x/' } },
      4,
      'http://a/x/b',
    ],
    ['a prefix by nothing', 'http://a/foo/b', { path: { kind: 'prefix', value: '' } }, 4, 'http://a/b'],
    ['all of the path by nothing', 'http://a/foo', { path: { kind: 'prefix', value: '' } }, 4, 'http://a/'],
    ['the root', 'http://a/b', { path: { kind: 'prefix', value: '/x' } }, 0, 'http://a/x/b'],
    [
      'a slash at the end stays',
      'http://a/foo/',
      { path: { kind: 'prefix', value: '/x' } },
      4,
      'http://a/x/',
    ],
    [
      'a prefix where something else matched',
      from,
      { path: { kind: 'prefix', value: '/x' } },
      -1,
      REDIRECT_INVALID,
    ],
  ];
  for (const [what, url, redirect, prefixLength, expected] of cases) {
    test(`C-304 ${what}`, () => {
      assert.equal(redirectTo(url, redirect, prefixLength), expected);
    });
  }

  test('C-304 a request without a host cannot be redirected, unless the redirect has one', () => {
    const request = { scheme: 'http', host: '', path: '/', query: '' };
    const redirect = { kind: 'redirect', status: 302, port: 81 } as const;
    assert.equal(redirectLocation(redirect, request, -1), REDIRECT_INVALID);
    assert.equal(redirectLocation({ ...redirect, host: 'a' }, request, -1), 'http://a:81/');
  });
});

describe('changes of fields', () => {
  const changes: FieldChanges = {
    add: [
      ['x-add', '1'],
      ['x-both', 'added'],
    ],
    set: [
      ['x-set', '2'],
      ['x-both', 'set'],
      ['x-gone', 'set'],
    ],
    remove: ['x-old', 'x-gone'],
  };

  test('in the text of a head: added, then set, then removed', () => {
    const text =
      'GET / HTTP/1.1\r\nHost: a\r\nX-Add: 0\r\nX-Set: 0\r\nX-SET: 1\r\nX-Old: 0\r\nx-oldest: 0\r\n';
    assert.equal(
      changeText(text, changes),
      'GET / HTTP/1.1\r\nHost: a\r\nX-Add: 0\r\nx-oldest: 0\r\nx-add: 1\r\nx-set: 2\r\nx-both: set\r\n',
    );
    assert.equal(
      changeText('GET / HTTP/1.0\r\n', changes),
      'GET / HTTP/1.0\r\nx-add: 1\r\nx-set: 2\r\nx-both: set\r\n',
    );
  });

  test('in a header list; the host is the authority', () => {
    const list = new HeaderList();
    for (const [name, value] of [
      [':method', 'GET'],
      [':path', '/'],
      [':authority', 'a'],
      ['x-set', '0'],
      ['x-old', '0'],
      ['x-oldest', '0'],
    ] as const)
      list.add(defineField(name, value));
    changeList(list, { ...changes, set: [...changes.set, ['host', 'b']] });
    assert.equal(list.authorityField?.value, 'b');
    assert.equal(list.pathField?.value, '/');
    assert.deepEqual(
      list.fields.slice(0, list.length).map(({ name, value }) => `${name}=${value}`),
      ['x-oldest=0', 'x-add=1', 'x-set=2', 'x-both=set'],
    );
  });
});
