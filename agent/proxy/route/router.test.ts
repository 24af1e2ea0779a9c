// SPDX-License-Identifier: Apache-2.0
// Routes in front of real servers on loopback: which backend a request reaches, what filters change, and what is
// answered in a backend's place; for HTTP/1, HTTP/1 that travels over HTTP/2, and HTTP/2.

import assert from 'node:assert/strict';
import {
  createServer,
  type IncomingHttpHeaders,
  type RequestListener,
  request as httpRequest,
} from 'node:http';
import http2, { type ClientHttp2Session } from 'node:http2';
import type { AddressInfo, Server } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import {
  fixedTarget,
  LoopbackEndpoint,
  type LoopbackProxy,
  listenLoopback,
  RecordedMetrics,
} from '../exchange/loopback.ts';
import { createHttpServer } from '../exchange/server.ts';
import type { HttpEndpoint, HttpServer, HttpTarget } from '../exchange/types.ts';
import { proxyFamilies } from '../metrics/families.ts';
import type { ClientRoutes, HttpRouteMatch, RouteBackend, RouteFilter, RouteRule } from '../model.ts';
import { type BackendTarget, Router } from './router.ts';

const reference = (kind: string, name: string, port = 0) => ({
  group: kind === 'Service' ? 'core' : 'gateway.networking.k8s.io',
  kind,
  namespace: 'shop',
  name,
  port,
});
const to = (name: string, weight = 1, filters: readonly RouteFilter[] = []): RouteBackend => ({
  authority: `${name}:80`,
  weight,
  filters,
  reference: reference('Service', name, 80),
});
const rule = (
  matches: RouteRule['matches'],
  backends: readonly RouteBackend[],
  more: Partial<RouteRule> = {},
): RouteRule => ({
  matches,
  backends,
  filters: [],
  policy: {},
  ...more,
});
const routesOf = (
  rules: readonly RouteRule[],
  protocol: ClientRoutes['protocol'] = 'http',
): ClientRoutes => ({
  protocol,
  routes: [{ reference: reference('HTTPRoute', 'r'), hosts: [], rules }],
});
const match = (more: Partial<HttpRouteMatch>): HttpRouteMatch => ({ fields: [], parameters: [], ...more });
const field = (name: string, value: string) => ({ name, value: { kind: 'exact', value } as const });
const changes = (set: readonly (readonly [string, string])[], remove: readonly string[] = []) => ({
  add: [],
  set,
  remove,
});

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** Says who it is and what it got. */
const echo =
  (name: string): RequestListener =>
  (incoming, response) => {
    const { method, url, headers } = incoming;
    let bytes = 0;
    incoming.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    incoming.on('end', () => {
      response.writeHead(200, { 'x-backend': name, 'x-own': '1' });
      response.end(JSON.stringify({ name, method, url, headers, bytes }));
    });
  };

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return (server.address() as AddressInfo).port;
}

type Send = (
  path: string,
  options?: { method?: string; headers?: Record<string, string>; body?: string },
) => Promise<Answer>;

/** The same test for each protocol. */
function eachWay(name: string, run: (way: string) => Promise<void>): void {
  for (const way of ['HTTP/1', 'HTTP/1 over HTTP/2', 'HTTP/2']) test(`${name} (${way})`, () => run(way));
}

describe('requests under routes', () => {
  const closing: (() => void)[] = [];
  const ending: (() => void)[] = [];
  const names = ['web', 'v1', 'v2'];
  const servers = new Map<string, { http1: number; http2: number }>();
  let far: HttpServer;
  const links = new Map<string, LoopbackProxy>();
  let registry: MetricRegistry;

  before(async () => {
    far = createHttpServer();
    for (const name of names) {
      const plain = createServer(echo(name));
      const h2 = http2.createServer(echo(name) as never);
      servers.set(name, { http1: await listen(plain), http2: await listen(h2) });
      ending.push(() => {
        plain.close();
        plain.closeAllConnections();
        h2.close();
      });
      const application = new LoopbackEndpoint(servers.get(name)?.http1 ?? 0, new RecordedMetrics());
      const link = await listenLoopback(
        far,
        fixedTarget([application]),
        { judge: () => 0, clientId: 'a' },
        true,
        true,
      );
      links.set(name, link);
      ending.push(() => void link.close());
    }
  });
  after(() => {
    for (const end of ending.reverse()) end();
  });
  afterEach(() => {
    for (const close of closing.splice(0).reverse()) close();
  });

  const service = (name: string, endpoints: readonly HttpEndpoint[]): BackendTarget => ({
    ...fixedTarget(endpoints),
    authority: `${name}:80`,
    balancerOf: () => null,
    release: () => undefined,
  });

  /** A proxy for the service `web` with these routes; `endpointOf` undefined: the service has no endpoint. */
  async function proxied(
    routes: ClientRoutes,
    endpointOf: (name: string) => HttpEndpoint | undefined,
    overHttp2 = false,
  ): Promise<LoopbackProxy> {
    registry = new MetricRegistry(proxyFamilies, new VirtualClock());
    const store = new MetricStore({
      id: 'w',
      families: proxyFamilies,
      send: (definition) => registry.define(0, definition),
      clock: new VirtualClock(),
    });
    const targetOf = (name: string): BackendTarget => {
      const endpoint = endpointOf(name);
      return service(name, endpoint === undefined ? [] : [endpoint]);
    };
    const own = targetOf('web');
    const router = new Router({
      routes,
      authority: 'web:80',
      parent: reference('Service', 'web', 80),
      own,
      backendOf: (authority) => targetOf(authority.split(':')[0] ?? ''),
      place: { store, owner: 'uid', podLabels: 'pod="a"' },
      random: seededRandom(5),
      failed: () => undefined,
    });
    const target: HttpTarget = { ...own, router };
    const proxy = await listenLoopback(createHttpServer(), target, null, true, overHttp2);
    closing.push(
      () => void proxy.close(),
      () => router.close(),
    );
    return proxy;
  }

  const endpoint = (port: number | undefined, multiplexed = false): HttpEndpoint | undefined =>
    port === undefined ? undefined : new LoopbackEndpoint(port, new RecordedMetrics(), true, multiplexed);

  async function sender(way: string, routes: ClientRoutes): Promise<Send> {
    if (way === 'HTTP/2') {
      const proxy = await proxied(routes, (name) => endpoint(servers.get(name)?.http2), true);
      const session = http2.connect(`http://127.0.0.1:${proxy.port}`);
      closing.push(() => session.destroy());
      return (path, options = {}) => sendHttp2(session, path, options);
    }
    const over2 = way === 'HTTP/1 over HTTP/2';
    const proxy = await proxied(routes, (name) =>
      over2 ? endpoint(links.get(name)?.port, true) : endpoint(servers.get(name)?.http1),
    );
    return (path, options = {}) => sendHttp1(proxy.port, path, options);
  }

  const named = (answer: Answer): unknown => answer.headers['x-backend'];

  eachWay('C-055, C-056, C-250 one route for everything forwards', async (way) => {
    const send = await sender(way, routesOf([rule([], [to('web')], { firstAvailable: true })]));
    const answer = await send('/a?b=c', { method: 'POST', body: 'x'.repeat(70_000) });
    assert.equal(answer.status, 200);
    const { name, url, bytes } = JSON.parse(answer.body) as Record<string, unknown>;
    assert.deepEqual([name, url, bytes], ['web', '/a?b=c', 70_000]);
  });

  eachWay('C-057, C-058 no route matches: 404, and the connection stays', async (way) => {
    const send = await sender(
      way,
      routesOf([rule([match({ path: { kind: 'exact', value: '/a' } })], [to('web')])]),
    );
    for (let times = 0; times < 2; times++) {
      const answer = await send('/b');
      assert.equal(answer.status, 404);
      assert.equal(answer.headers['l5d-proxy-error'], 'no route found for request');
      assert.equal(answer.headers.connection, way === 'HTTP/2' ? undefined : 'keep-alive');
    }
    assert.equal(named(await send('/a')), 'web');
  });

  eachWay('C-059, C-248 fields choose the backend, more of them win', async (way) => {
    const send = await sender(
      way,
      routesOf([
        rule([match({ fields: [field('x-v', '1')] })], [to('v1')]),
        rule([match({ fields: [field('x-v', '1'), field('x-w', '1')] })], [to('v2')]),
        rule([], [to('web')]),
      ]),
    );
    assert.equal(named(await send('/')), 'web');
    assert.equal(named(await send('/', { headers: { 'X-V': '1' } })), 'v1');
    assert.equal(named(await send('/', { headers: { 'X-V': '1', 'X-W': '1' } })), 'v2');
  });

  eachWay('C-060 paths choose the backend: prefix, expression, exact', async (way) => {
    const path = (kind: 'prefix' | 'regex' | 'exact', value: string) => [match({ path: { kind, value } })];
    const send = await sender(
      way,
      routesOf([
        rule(path('prefix', '/goodbye'), [to('v1')]),
        rule(path('regex', '/item/[0-9]+'), [to('v2')]),
        rule(path('exact', '/v1'), [to('v1')]),
        rule([], [to('web')]),
      ]),
    );
    const answers = ['/goodbye/all', '/item/17?x=1', '/v1', '/item/17/x', '/v1/', '/'];
    assert.deepEqual(await Promise.all(answers.map(async (one) => named(await send(one)))), [
      'v1',
      'v2',
      'v1',
      'web',
      'web',
      'web',
    ]);
  });

  eachWay('C-249 fields of requests and answers are changed', async (way) => {
    const filters: RouteFilter[] = [
      { kind: 'request-fields', changes: changes([['x-set', 'new']], ['x-gone']) },
      { kind: 'response-fields', changes: changes([['x-route', 'r']], ['x-own']) },
    ];
    const backendFilters: RouteFilter[] = [
      { kind: 'request-fields', changes: changes([['x-backend-set', 'b']]) },
    ];
    const send = await sender(way, routesOf([rule([], [to('v1', 1, backendFilters)], { filters })]));
    const answer = await send('/', {
      method: 'POST',
      headers: { 'X-Set': 'old', 'X-Gone': '1', 'X-Stays': '1' },
      body: 'body',
    });
    const { headers, bytes } = JSON.parse(answer.body) as {
      headers: Record<string, string>;
      bytes: number;
    };
    assert.equal(bytes, 4);
    assert.deepEqual(
      [headers['x-set'], headers['x-gone'], headers['x-stays'], headers['x-backend-set']],
      ['new', undefined, '1', 'b'],
    );
    assert.deepEqual([answer.headers['x-route'], answer.headers['x-own']], ['r', undefined]);
    assert.equal(answer.headers['x-backend'], 'v1');
  });

  eachWay('C-304 a redirect is answered here; one that leads nowhere else goes on', async (way) => {
    const redirect = (path: string, more: Partial<RouteFilter>) =>
      rule([match({ path: { kind: 'prefix', value: path } })], [to('web')], {
        filters: [{ kind: 'redirect', status: 302, ...more } as RouteFilter],
      });
    const send = await sender(
      way,
      routesOf([
        redirect('/old', {
          scheme: 'https',
          host: 'b.test',
          path: { kind: 'prefix', value: '/new' },
        } as never),
        redirect('/same', {}),
      ]),
    );
    const answer = await send('/old/x?q=1');
    assert.equal(answer.status, 302);
    assert.equal(answer.headers.location, 'https://b.test/new/x?q=1');
    assert.equal(answer.body, '');
    assert.equal(named(await send('/same')), 'web');
  });

  eachWay(
    'backends get their share by weight; one without endpoints gets none, and all of none are 503',
    async (way) => {
      const send = await sender(
        way,
        routesOf([
          rule([match({ path: { kind: 'exact', value: '/none' } })], [to('nobody')]),
          rule([match({ path: { kind: 'exact', value: '/zero' } })], [to('v1', 0)]),
          rule([], [to('v1', 3), to('v2'), to('nobody', 100)]),
        ]),
      );
      const counts: Record<string, number> = {};
      for (let sent = 0; sent < 200; sent++) {
        const name = String(named(await send('/')));
        counts[name] = (counts[name] ?? 0) + 1;
      }
      assert.deepEqual(Object.keys(counts).sort(), ['v1', 'v2']);
      const { v1 = 0 } = counts;
      assert.ok(v1 > 120 && v1 < 180, `${v1} of 200 for three quarters`);
      for (const path of ['/none', '/zero']) {
        const answer = await send(path);
        assert.equal(answer.status, 503);
        assert.equal(answer.headers['l5d-proxy-error'], 'service unavailable');
      }
    },
  );

  eachWay('a failure is injected for its share, a backend that is not there answers 500', async (way) => {
    const failure = (status: number, numerator: number, message: string): RouteFilter => ({
      kind: 'failure',
      status,
      grpc: false,
      message,
      numerator,
      denominator: 2,
    });
    const missing: RouteBackend = {
      weight: 1,
      filters: [failure(500, 2, 'Service not found\r\nx: y')],
      reference: reference('Service', 'gone'),
    };
    const send = await sender(
      way,
      routesOf([
        rule([match({ path: { kind: 'exact', value: '/half' } })], [to('web')], {
          filters: [failure(418, 1, 'tea')],
        }),
        rule([], [missing]),
      ]),
    );
    const statuses = new Set<number>();
    for (let sent = 0; sent < 20; sent++) statuses.add((await send('/half')).status);
    assert.deepEqual(
      [...statuses].sort((a, b) => a - b),
      [200, 418],
    );
    const answer = await send('/');
    assert.equal(answer.status, 500);
    assert.equal(answer.headers['l5d-proxy-error'], 'Service not found??x: y');
  });

  eachWay('C-442 a retry passes the filters again', async (way) => {
    const retry = { statuses: [[500, 599]] as const, grpcCodes: [], maxRetries: 4 };
    const failing = (numerator: number): Partial<RouteRule> => ({
      filters: [
        { kind: 'failure', status: 503, grpc: false, message: 'injected', numerator, denominator: 2 },
      ],
      policy: { retry },
    });
    const send = await sender(
      way,
      routesOf([
        rule([match({ path: { kind: 'exact', value: '/half' } })], [to('web')], failing(1)),
        rule([], [to('web')], failing(2)),
      ]),
    );
    const counted = async (what: string): Promise<number> => {
      const text = await registry.render();
      const line = new RegExp(
        `^outbound_http_route_retry_${what}_total\\{.*route_name="r".*\\} (\\d+)$`,
        'm',
      );
      return Number(line.exec(text)?.[1] ?? 0);
    };
    for (let sent = 0; sent < 6; sent++) {
      const { status, body } = await send('/half', { method: 'POST', body: 'kept' });
      assert.deepEqual([status, (JSON.parse(body) as { bytes: number }).bytes], [200, 4]);
    }
    const retried = await counted('requests');
    assert.ok(retried > 0, 'no failure was injected');
    assert.ok((await counted('successes')) > 0);
    const answer = await send('/');
    assert.deepEqual([answer.status, answer.headers['l5d-proxy-error']], [503, 'injected']);
    assert.equal((await counted('requests')) - retried, 4);
    assert.equal(await counted('limit_exceeded'), 1);
  });

  eachWay('C-305 a policy that cannot be used refuses everything', async (way) => {
    const send = await sender(way, { ...routesOf([rule([], [to('web')])]), invalid: 'x' });
    const answer = await send('/');
    assert.equal(answer.status, 500);
    assert.equal(answer.headers['l5d-proxy-error'], 'invalid client policy configuration');
  });

  test('requests are counted under their route and their backend', async () => {
    const send = await sender(
      'HTTP/1',
      routesOf([
        rule([match({ path: { kind: 'exact', value: '/r' } })], [to('web')], {
          filters: [{ kind: 'redirect', status: 301, host: 'x.test' }],
        }),
        rule([], [to('v1')]),
      ]),
    );
    await send('/r');
    await send('/');
    const text = await registry.render();
    const labels =
      'parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="web",parent_port="80",parent_section_name="",' +
      'route_group="gateway.networking.k8s.io",route_kind="HTTPRoute",route_namespace="shop",route_name="r"';
    for (const [family, more] of [
      ['route_request_statuses_total', ',hostname="",http_status="301",error=""'],
      ['route_request_statuses_total', ',hostname="",http_status="200",error=""'],
      [
        'route_backend_response_statuses_total',
        ',backend_group="core",backend_kind="Service",backend_namespace="shop",backend_name="v1",backend_port="80",backend_section_name="",http_status="200",error=""',
      ],
    ]) {
      const line = `outbound_http_${family}{${labels}${more},pod="a"} 1\n`;
      assert.ok(text.includes(line), `${line} in\n${text}`);
    }
  });

  test('gRPC: a service and its method choose the backend; no route is NOT_FOUND, failures keep their code', async () => {
    const send = await sender(
      'HTTP/2',
      routesOf(
        [
          rule([{ service: 'shop.Cart', method: 'Get', fields: [] }], [to('v1')]),
          rule([{ service: 'shop.Cart', fields: [] }], [to('v2')], {
            filters: [
              { kind: 'failure', status: 8, grpc: true, message: 'full', numerator: 1, denominator: 1 },
            ],
          }),
        ],
        'grpc',
      ),
    );
    const call = (path: string) =>
      send(path, {
        method: 'POST',
        headers: { 'content-type': 'application/grpc', te: 'trailers' },
        body: 'x',
      });
    assert.equal((await call('/shop.Cart/Get')).headers['x-backend'], 'v1');
    const failed = await call('/shop.Cart/Put');
    assert.deepEqual(
      [failed.status, failed.headers['grpc-status'], failed.headers['grpc-message']],
      [200, '8', 'full'],
    );
    const unknown = await call('/shop.Other/Get');
    assert.deepEqual([unknown.status, unknown.headers['grpc-status']], [200, '5']);
  });
});

function sendHttp1(
  port: number,
  path: string,
  { method = 'GET', headers = {}, body = '' }: Parameters<Send>[1] & object,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      {
        port,
        host: '127.0.0.1',
        path,
        method,
        headers: { host: 'web.test', connection: 'keep-alive', ...headers },
      },
      (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => {
          text += chunk.toString();
        });
        response.on('end', () => {
          const connection = response.headers.connection ?? 'keep-alive';
          resolve({
            status: response.statusCode ?? 0,
            headers: { ...response.headers, connection },
            body: text,
          });
        });
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

function sendHttp2(
  session: ClientHttp2Session,
  path: string,
  { method = 'GET', headers = {}, body = '' }: Parameters<Send>[1] & object,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': method, ':path': path, ...headers });
    let answer: IncomingHttpHeaders & { ':status'?: number | undefined } = {};
    let text = '';
    stream.on('response', (fields) => {
      answer = fields;
    });
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    stream.on('end', () => resolve({ status: answer[':status'] ?? 0, headers: answer, body: text }));
    stream.on('error', reject);
    if (method !== 'GET') stream.end(body);
  });
}
