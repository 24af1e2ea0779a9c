// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { ClientRoute, GrpcRouteMatch, HostMatch, HttpRouteMatch, RouteRule } from '../model.ts';
import { createRouteIndex } from './route-index.ts';
import type { RoutedRequest } from './routed-request.ts';

interface Asked {
  readonly method?: string;
  readonly host?: string;
  readonly fields?: Readonly<Record<string, string | readonly string[]>>;
}

function request(target: string, { method = 'GET', host = 'web', fields = {} }: Asked = {}): RoutedRequest {
  const [path = '', query = ''] = target.split('?');
  const parameters = new URLSearchParams(query);
  return {
    method,
    host,
    path,
    query: query === '' ? '' : `?${query}`,
    scheme: 'http',
    fields: (name) => [fields[name] ?? []].flat(),
    parameters: (name) => parameters.getAll(name),
  };
}

type Path = NonNullable<HttpRouteMatch['path']>;
const match = (path?: Path, more: Partial<HttpRouteMatch> = {}): HttpRouteMatch => ({
  ...(path && { path }),
  fields: [],
  parameters: [],
  ...more,
});
const exact = (value: string): Path => ({ kind: 'exact', value });
const prefix = (value: string): Path => ({ kind: 'prefix', value });
const regex = (value: string): Path => ({ kind: 'regex', value });
const is = (name: string, value: string) => ({ name, value: { kind: 'exact', value } as const });
const like = (name: string, value: string) => ({ name, value: { kind: 'regex', value } as const });

function rule(matches: RouteRule['matches']): RouteRule {
  return { matches, filters: [], backends: [], policy: {} };
}

function route(rules: readonly RouteRule[], hosts: readonly HostMatch[] = []): ClientRoute {
  return { reference: { group: '', kind: '', namespace: '', name: '', port: 0 }, hosts, rules };
}

/** Numbers of rules over all routes. */
function indexOf(routes: readonly ClientRoute[], protocol: 'http' | 'grpc' = 'http') {
  const before = routes.map((_, at) => routes.slice(0, at).reduce((sum, { rules }) => sum + rules.length, 0));
  const index = createRouteIndex({ protocol, routes }, (routeAt, ruleAt) => (before[routeAt] ?? 0) + ruleAt);
  return (asked: RoutedRequest): number | undefined => index(asked)?.rule;
}
const indexOfMatches = (...matches: HttpRouteMatch[]) => indexOf([route(matches.map((one) => rule([one])))]);

describe('which route matches (C-303)', () => {
  test('C-303 paths: whole, by prefix in whole segments, by expression for the whole path', () => {
    const find = indexOfMatches(match(exact('/a')), match(prefix('/foo/')), match(regex('/r/[0-9]+')));
    assert.equal(find(request('/a?x=1')), 0);
    assert.equal(find(request('/a/')), undefined);
    for (const path of ['/foo', '/foo/', '/foo/a']) assert.equal(find(request(path)), 1);
    assert.equal(find(request('/foobar')), undefined);
    assert.equal(find(request('/r/17')), 2);
    assert.equal(find(request('/r/17/')), undefined);
    assert.equal(find(request('/x/r/17')), undefined);
  });

  test('C-303 fields and query parameters: equal or by expression, any of several, decoded', () => {
    const find = indexOfMatches(
      match(undefined, { fields: [is('X-A', '1'), like('x-b', 'b+')] }),
      match(undefined, { parameters: [is('q', 'ä b'), like('n', '[0-9]+')] }),
    );
    assert.equal(find(request('/', { fields: { 'x-a': ['0', '1'], 'x-b': 'bbb' } })), 0);
    assert.equal(find(request('/', { fields: { 'x-a': '1', 'x-b': 'bbbc' } })), undefined);
    assert.equal(find(request('/', { fields: { 'x-a': '1' } })), undefined);
    assert.equal(find(request('/?n=7&q=x&q=%C3%A4+b')), 1);
    assert.equal(find(request('/?q=%C3%A4+b&n=a7')), undefined);
  });

  test('C-303 the method; any of several matches of a rule; a rule without matches', () => {
    const post = indexOfMatches(match(undefined, { method: 'POST' }));
    assert.equal(post(request('/', { method: 'POST' })), 0);
    assert.equal(post(request('/')), undefined);
    const either = indexOf([route([rule([match(exact('/a')), match(exact('/b'))])])]);
    assert.equal(either(request('/b')), 0);
    const all = indexOf([route([rule([])])]);
    for (const path of ['/', '/x', '', '*']) assert.equal(all(request(path)), 0);
  });

  test('C-303 hosts: whole or by suffix, in any case, without port and last dot', () => {
    const rules = [rule([])];
    const find = indexOf([
      route(rules, [{ kind: 'exact', value: 'Shop.Example' }]),
      route(rules, [{ kind: 'suffix', value: 'example' }]),
      route(rules, [{ kind: 'suffix', value: 'deep.example' }]),
    ]);
    const of = (host: string) => find(request('/', { host }));
    assert.equal(of('shop.example'), 0);
    assert.equal(of('SHOP.example.:8080'), 0);
    assert.equal(of('other.example'), 1);
    assert.equal(of('a.deep.example'), 2);
    assert.equal(of('deep.example'), 1);
    assert.equal(of('example'), undefined);
    assert.equal(of('shop.example.org'), undefined);
    assert.equal(of(''), undefined);
  });

  test('C-303 the host prevails over the path; one whose rules do not match gives way to a less specific one', () => {
    const find = indexOf([
      route([rule([match(prefix('/long/path'))])]),
      route([rule([match(prefix('/'))])], [{ kind: 'suffix', value: 'example' }]),
      route([rule([match(exact('/only'))])], [{ kind: 'exact', value: 'a.example' }]),
    ]);
    assert.equal(find(request('/long/path', { host: 'b.example' })), 1);
    assert.equal(find(request('/only', { host: 'a.example' })), 2);
    assert.equal(find(request('/else', { host: 'a.example' })), 1);
    assert.equal(find(request('/long/path', { host: 'c' })), 0);
  });

  test('C-303 the longer path wins, then more fields, more parameters, a method, and the first', () => {
    const find = indexOfMatches(
      match(prefix('/'), { fields: [is('a', '1'), is('b', '1')] }),
      match(prefix('/api')),
      match(prefix('/api/v1')),
      match(prefix('/api'), { fields: [is('a', '1')] }),
      match(prefix('/api'), { fields: [is('a', '1'), is('b', '1')] }),
      match(prefix('/api'), { parameters: [is('q', '1')] }),
      match(prefix('/api'), { method: 'POST' }),
      match(prefix('/api')),
    );
    const fields = { a: '1', b: '1' };
    assert.equal(find(request('/x', { fields })), 0);
    assert.equal(find(request('/api/v1/x', { fields })), 2);
    assert.equal(find(request('/api', { fields: { a: '1' } })), 3);
    assert.equal(find(request('/api', { fields })), 4);
    assert.equal(find(request('/api?q=1', { fields: { a: '1' } })), 3);
    assert.equal(find(request('/api?q=1', { method: 'POST' })), 5);
    assert.equal(find(request('/api', { method: 'POST' })), 6);
    assert.equal(find(request('/api')), 1);
  });

  test('C-303 an expression counts as long as the path: over shorter prefixes, and even with the exact path', () => {
    const find = indexOfMatches(
      match(prefix('/a')),
      match(regex('/a/.*')),
      match(exact('/a/b')),
      match(prefix('/a/c')),
    );
    assert.equal(find(request('/a/x')), 1);
    assert.equal(find(request('/a/b')), 1);
    assert.equal(find(request('/a/c')), 1);
    assert.equal(find(request('/a')), 0);
    const exactFirst = indexOfMatches(match(exact('/a/b')), match(regex('/a/.*')), match(prefix('/a/b')));
    assert.equal(exactFirst(request('/a/b')), 0);
  });

  test('C-303 the path / and the prefix / are equally long', () => {
    const find = indexOfMatches(match(prefix('/'), { fields: [is('a', '1')] }), match(exact('/')));
    assert.equal(find(request('/', { fields: { a: '1' } })), 0);
    assert.equal(find(request('/')), 1);
  });

  test('C-303 gRPC: service and method over service over method; only POST, only two segments', () => {
    const rpc = (
      service: string | undefined,
      method: string | undefined,
      fields: GrpcRouteMatch['fields'] = [],
    ) => rule([{ ...(service && { service }), ...(method && { method }), fields }]);
    const find = indexOf(
      [
        route([
          rpc(undefined, undefined),
          rpc(undefined, 'Get'),
          rpc('shop.Cart', undefined),
          rpc('shop.Cart', 'Get'),
          rpc('shop.Cart', 'Get', [is('a', '1')]),
        ]),
      ],
      'grpc',
    );
    const call = (path: string, fields: Readonly<Record<string, string>> = {}) =>
      find(request(path, { method: 'POST', fields }));
    assert.equal(call('/shop.Cart/Get'), 3);
    assert.equal(call('/shop.Cart/Get', { a: '1' }), 4);
    assert.equal(call('/shop.Cart/Put', { a: '1' }), 2);
    assert.equal(call('/shop.Other/Get'), 1);
    assert.equal(call('/shop.Other/Put'), 0);
    for (const path of ['/shop.Cart', '/', '/shop.Cart/', '/shop.Cart/Get/x', '//Get'])
      assert.equal(call(path), undefined);
    assert.equal(find(request('/shop.Cart/Get')), undefined);
  });

  test('an expression that cannot be used is told', () => {
    assert.throws(() => indexOfMatches(match(regex('('))), /regular expression/);
    assert.throws(() => indexOfMatches(match(undefined, { fields: [like('a', '(b)\\1')] })), /linear time/);
  });

  test('agrees with looking at every rule', () => {
    const values = fc.constantFrom('0', '1');
    const matches = fc.record({
      path: fc.option(
        fc.record({
          kind: fc.constantFrom('exact', 'prefix', 'regex'),
          value: fc.constantFrom('/', '/a', '/a/', '/a/b', '/ab', '/a/.*', '/.', '/a?', '/a/*', '/a/b+'),
        }),
        { nil: undefined },
      ),
      fields: fc.array(
        fc.record({
          name: fc.constantFrom('x', 'y'),
          value: fc.record({ kind: fc.constantFrom('exact', 'regex'), value: values }),
        }),
        { maxLength: 2 },
      ),
      parameters: fc.constant([]),
      method: fc.option(fc.constantFrom('GET', 'POST'), { nil: undefined }),
    }) as unknown as fc.Arbitrary<HttpRouteMatch>;
    fc.assert(
      fc.property(
        fc.array(matches, { maxLength: 12 }),
        fc.constantFrom('/', '/a', '/a/', '/a/b', '/ab', '/a/b/c'),
        fc.record({ x: fc.array(values, { maxLength: 2 }), y: fc.array(values, { maxLength: 1 }) }),
        (all, path, fields) => {
          const asked = request(path, { fields });
          assert.equal(indexOfMatches(...all)(asked), naive(all, asked));
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

/** The rules of precedence as they are written down, one match after the other. */
function naive(all: readonly HttpRouteMatch[], asked: RoutedRequest): number | undefined {
  const ranks = all.flatMap((one, at) => {
    const length = pathLength(one.path, asked.path);
    if (length === undefined || (one.method !== undefined && one.method !== asked.method)) return [];
    if (!one.fields.every(({ name, value }) => asked.fields(name).includes(value.value))) return [];
    return [[length, one.fields.length, Number(one.method !== undefined), -at]];
  });
  const best = ranks.sort((a, b) => compare(b, a))[0];
  return best === undefined ? undefined : 0 - (best[3] ?? 0);
}

function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at < 0 ? 0 : (a[at] ?? 0) - (b[at] ?? 0);
}

function pathLength(path: HttpRouteMatch['path'], asked: string): number | undefined {
  const { kind, value } = path ?? { kind: 'prefix', value: '/' };
  if (kind === 'exact') return value === asked ? asked.length : undefined;
  if (kind === 'regex') return new RegExp(`^(?:${value})$`).test(asked) ? asked.length : undefined;
  const trimmed = value.replace(/\/+$/, '');
  const fits = asked === trimmed || asked.startsWith(`${trimmed}/`);
  return fits ? Math.max(trimmed.length, 1) : undefined;
}
