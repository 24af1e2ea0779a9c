// SPDX-License-Identifier: Apache-2.0
// HTTPRoute and GRPCRoute for the clients of a Service, in a mesh of two nodes with programs that know nothing of it:
// applied, changed and deleted while it runs.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until as untilSo } from '../faults/until.ts';
import { meshed, namespace, pod, service } from './objects.ts';
import { scrape, total } from './scrape.ts';

type Json = Readonly<Record<string, unknown>>;

const PORT = 8080;
const GRPC_PORT = 9000;
const PATIENCE_MS = 60_000;
const names = fileURLToPath(new URL('programs/grpc-echo.ts', import.meta.url));

/** Answers with its name, the path, and the field `x-set` that it got; `/flaky` fails every other time. */
const web = (name: string): string[] => [
  process.execPath,
  '-e',
  `let turns = 0; require('node:http').createServer((q, s) => {
    if (q.url.startsWith('/flaky') && turns++ % 2 === 0) s.statusCode = 503; const late = q.url === '/slow' ? 3000 : 0;
    setTimeout(() => s.end(['${name}', q.url, q.headers['x-set'] ?? ''].join(' ')), late); }).listen(${PORT}, '::')`,
];
const grpc = (name: string): string[] => [process.execPath, names, 'serve', name, String(GRPC_PORT)];

const parent = { group: 'core', kind: 'Service', name: 'web', port: PORT };
const route = (name: string, rules: readonly Json[], more: Json = {}): Json => ({
  apiVersion: 'gateway.networking.k8s.io/v1',
  kind: 'HTTPRoute',
  metadata: { name, namespace: 'mesh' },
  spec: { parentRefs: [parent], rules },
  ...more,
});
const to = (name: string, weight = 1, port = PORT): Json => ({ name, port, weight });
const pathIs = (value: string, type = 'PathPrefix'): Json => ({ path: { type, value } });

describe('routes', () => {
  let mesh: LocalMesh;
  let applied: { kind: 'HTTPRoute' | 'GRPCRoute'; namespace: string; name: string }[] = [];

  before(async () => {
    mesh = await startMesh({
      name: 'h-routes',
      objects: [
        namespace('mesh', meshed),
        namespace('other', meshed),
        pod('mesh', 'web', web('web'), { node: 'node1', readinessPort: PORT }),
        pod('mesh', 'v1', web('v1'), { node: 'node1', readinessPort: PORT }),
        pod('mesh', 'v2', web('v2'), { node: 'node2', readinessPort: PORT }),
        pod('mesh', 'gone', grpc('one'), { node: 'node1', readinessPort: GRPC_PORT }),
        pod('mesh', 'gtwo', grpc('two'), { node: 'node2', readinessPort: GRPC_PORT }),
        ...['web', 'v1', 'v2'].map((name) => service('mesh', name, PORT)),
        ...['gone', 'gtwo'].map((name) => service('mesh', name, GRPC_PORT)),
        service('mesh', 'empty', PORT),
        pod('mesh', 'client', [], { node: 'node2' }),
        pod('other', 'client', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());
  afterEach(async () => {
    await mesh.delete(...applied);
    applied = [];
    await until('/', (text) => text === '200 web /');
  });

  const apply = async (...routes: Json[]): Promise<void> => {
    await mesh.apply(...routes);
    for (const { kind, metadata } of routes as {
      kind: 'HTTPRoute';
      metadata: { name: string; namespace: string };
    }[]) {
      const { name, namespace: ns } = metadata;
      if (!applied.some((one) => one.name === name)) applied.push({ kind, namespace: ns, name });
    }
  };

  /** `200 web /path x-set`, and where it leads if it is a redirect. */
  const get = async (path: string, args: readonly string[] = [], ns = 'mesh'): Promise<string> => {
    const url = `http://web.mesh.svc.cluster.local:${PORT}${path}`;
    const format = '\n%{http_code} %{redirect_url}%header{l5d-proxy-error}%header{x-answer}';
    const run = await mesh.exec('client', ['curl', '-sS', '--max-time', '20', ...args, '-w', format, url], {
      ns,
    });
    assert.equal(run.code, 0, run.stderr);
    const end = run.stdout.lastIndexOf('\n');
    const [code = '', ...more] = run.stdout
      .slice(end + 1)
      .trim()
      .split(' ');
    return [code, run.stdout.slice(0, end).trim(), ...more].filter((text) => text !== '').join(' ');
  };
  /** What is applied takes effect a moment later. */
  const until = async (
    path: string,
    holds: (text: string) => boolean,
    args: readonly string[] = [],
    ns = 'mesh',
  ): Promise<void> => {
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const text = await get(path, args, ns);
      if (holds(text)) return;
      if (performance.now() > deadline) assert.fail(`still ${text}`);
      await sleep(100);
    }
  };

  it('paths, fields and methods choose the backend, on this node and on another; nothing matches: 404', async () => {
    await apply(
      route('r', [
        { matches: [pathIs('/goodbye')], backendRefs: [to('v1')] },
        { matches: [pathIs('/item/[0-9]+', 'RegularExpression')], backendRefs: [to('v2')] },
        {
          matches: [{ ...pathIs('/goodbye'), headers: [{ name: 'X-V', value: '2' }] }],
          backendRefs: [to('v2')],
        },
        { matches: [{ ...pathIs('/self'), method: 'PUT' }] },
      ]),
    );
    await until('/goodbye/x', (text) => text === '200 v1 /goodbye/x');
    assert.equal(await get('/item/17'), '200 v2 /item/17');
    assert.equal(await get('/goodbye', ['-H', 'X-V: 2']), '200 v2 /goodbye');
    assert.equal(await get('/self', ['-X', 'PUT']), '200 web /self');
    assert.equal(await get('/self'), '404 no route found for request');
    assert.match(await get('/goodbye', [], 'other'), /^200 v1/, 'for clients of every namespace');
  });

  it('fields are changed, redirects answered, time is limited', async () => {
    const filters = (type: string, field: string, changes: Json): Json => ({ type, [field]: changes });
    await apply(
      route('r', [
        {
          matches: [pathIs('/set')],
          filters: [
            filters('RequestHeaderModifier', 'requestHeaderModifier', {
              set: [{ name: 'X-Set', value: 'new' }],
            }),
            filters('ResponseHeaderModifier', 'responseHeaderModifier', {
              add: [{ name: 'X-Answer', value: 'yes' }],
            }),
          ],
          backendRefs: [to('v2')],
        },
        {
          matches: [pathIs('/old')],
          filters: [
            filters('RequestRedirect', 'requestRedirect', {
              hostname: 'b.test',
              path: { type: 'ReplacePrefixMatch', replacePrefixMatch: '/new' },
            }),
          ],
        },
        { matches: [pathIs('/slow')], timeouts: { request: '500ms' } },
        {},
      ]),
    );
    await until('/set', (text) => text.startsWith('200 v2 /set new'), ['-H', 'X-Set: old']);
    assert.equal(await get('/set', ['-H', 'X-Set: old']), '200 v2 /set new yes');
    assert.equal(await get('/old/a?b=c'), `302 http://b.test:${PORT}/new/a?b=c`);
    assert.match(await get('/slow'), /^504/);
  });

  it('backends share by weight, and one that is not there answers 500; both follow changes', async () => {
    await apply(route('r', [{ backendRefs: [to('v1', 3), to('v2', 1)] }]));
    await until('/', (text) => text === '200 v1 /' || text === '200 v2 /');
    const url = `http://web.mesh.svc.cluster.local:${PORT}/?[1-200]`;
    const run = await mesh.exec('client', ['curl', '-sS', '--max-time', '60', '-w', '\n', url], {
      ns: 'mesh',
    });
    const answers = run.stdout.trim().split('\n');
    const v1 = answers.filter((line) => line.startsWith('v1')).length;
    assert.equal(v1 + answers.filter((line) => line.startsWith('v2')).length, 200, run.stdout.slice(-500));
    assert.ok(v1 > 115 && v1 < 185, `${v1} of 200 for three quarters`);
    await apply(route('r', [{ backendRefs: [to('v2')] }]));
    await until('/', (text) => text === '200 v2 /');
    await apply(route('r', [{ backendRefs: [to('nowhere')] }]));
    await until('/', (text) => text === '500 Service not found nowhere');
    await apply(route('r', [{ backendRefs: [to('empty', 5), to('v1')] }]));
    // Without endpoints, and known for it: the other one gets everything.
    await until('/', (text) => text === '200 v1 /');
  });

  it('a route of the client’s namespace is for that namespace', async () => {
    await apply({
      ...route('consumer', [{ backendRefs: [{ ...to('v1'), namespace: 'mesh' }] }]),
      metadata: { name: 'consumer', namespace: 'other' },
      spec: {
        parentRefs: [{ ...parent, namespace: 'mesh' }],
        rules: [{ backendRefs: [{ ...to('v1'), namespace: 'mesh' }] }],
      },
    });
    await until('/', (text) => text === '200 v1 /', [], 'other');
    assert.equal(await get('/'), '200 web /');
  });

  it('a route’s annotations say what is sent again', async () => {
    const flaky = [{ matches: [pathIs('/flaky')], backendRefs: [to('v1')] }];
    const statuses = async (): Promise<string[]> => {
      const url = `http://web.mesh.svc.cluster.local:${PORT}/flaky?[1-20]`;
      const args = ['curl', '-sS', '--max-time', '60', '-o', '/dev/null', '-w', '%{http_code}\n', url];
      return (await mesh.exec('client', args, { ns: 'mesh' })).stdout.trim().split('\n');
    };
    await apply(route('r', flaky));
    await until('/', (text) => text.startsWith('404'));
    assert.ok((await statuses()).includes('503'));
    const annotations = { 'retry.linkerd.io/http': '5xx', 'retry.linkerd.io/limit': '3' };
    await apply(route('r', flaky, { metadata: { name: 'r', namespace: 'mesh', annotations } }));
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      const found = await statuses();
      if (found.every((status) => status === '200')) break;
      if (performance.now() > deadline) assert.fail(found.join(' '));
    }
  });

  it('requests are counted by route and backend', async () => {
    await apply(route('counted', [{ backendRefs: [to('v1')] }]));
    await until('/', (text) => text === '200 v1 /');
    const labels = {
      parent_name: 'web',
      parent_namespace: 'mesh',
      route_group: 'gateway.networking.k8s.io',
      route_kind: 'HTTPRoute',
      route_namespace: 'mesh',
      route_name: 'counted',
    };
    const backend = { ...labels, backend_kind: 'Service', backend_name: 'v1', backend_port: String(PORT) };
    await untilSo('it is counted', PATIENCE_MS, async () => {
      const series = await scrape(mesh, 'node2');
      const asked = total(series, 'outbound_http_route_request_statuses_total', {
        ...labels,
        http_status: '200',
      });
      return asked >= 1 && total(series, 'outbound_http_route_backend_requests_total', backend) >= 1;
    });
  });

  it('gRPC: service and method choose the backend', async () => {
    const grpcRoute = (method: string): Json => ({
      apiVersion: 'gateway.networking.k8s.io/v1',
      kind: 'GRPCRoute',
      metadata: { name: 'g', namespace: 'mesh' },
      spec: {
        parentRefs: [{ group: 'core', kind: 'Service', name: 'gone' }],
        rules: [
          {
            matches: [{ method: { service: 'shop.Names', method } }],
            backendRefs: [to('gtwo', 1, GRPC_PORT)],
          },
        ],
      },
    });
    const call = async (): Promise<string> => {
      const target = ['call', 'gone.mesh.svc.cluster.local', String(GRPC_PORT), '1'];
      return (await mesh.exec('client', [process.execPath, names, ...target], { ns: 'mesh' })).stdout;
    };
    const answers = async (expected: RegExp): Promise<void> => {
      const deadline = performance.now() + PATIENCE_MS;
      for (let text = await call(); !expected.test(text); text = await call()) {
        if (performance.now() > deadline) assert.fail(`still ${text}`);
      }
    };
    await answers(/"one /);
    await apply(grpcRoute('Say'));
    await answers(/"two /);
    await apply(grpcRoute('Other'));
    await answers(/"5 no route found for request"/);
  });
});
