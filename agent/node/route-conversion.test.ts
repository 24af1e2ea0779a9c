// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { OutboundPolicy } from '#lib/proto/gen/linkerd/outbound.ts';
import type { ClientRoutes } from '../proxy/model.ts';
import { clientRoutes } from './route-conversion.ts';

/** As `fromPartial` takes it: its own type does not take constants. */
type HttpRule = Readonly<Record<string, unknown>>;
type Written = Parameters<typeof OutboundPolicy.fromPartial>[0];

const metadata = (kind: string, name: string) =>
  ({
    kind: { $case: 'resource', resource: { group: 'g', kind, namespace: 'shop', name, port: 80 } },
  }) as const;
const balancer = (path: string) =>
  ({
    metadata: metadata('Service', 'web'),
    kind: { $case: 'balancer', balancer: { discovery: { kind: { $case: 'dst', dst: { path } } } } },
  }) as const;
const shared = (weight = 1, path = 'web:80') =>
  ({
    kind: {
      $case: 'randomAvailable',
      randomAvailable: { backends: [{ backend: { backend: balancer(path) }, weight }] },
    },
  }) as const;

/** Over the wire, as it comes. */
function convertPolicy(kind: object | undefined): ClientRoutes {
  const policy = OutboundPolicy.fromPartial({ protocol: { kind } } as unknown as Written);
  return clientRoutes(OutboundPolicy.decode(OutboundPolicy.encode(policy).finish()));
}

function convert(rule: HttpRule, hosts: readonly object[] = []): ClientRoutes {
  const routes = [
    { metadata: metadata('HTTPRoute', 'a'), hosts: [...hosts], rules: [{ backends: shared(), ...rule }] },
  ];
  return convertPolicy({ $case: 'detect', detect: { http1: { routes } } });
}
const header = (name: string, value = 'x') => ({ headers: [{ name, value: Buffer.from(value) }] });

describe('routes of an outbound policy', () => {
  test('are the same where the port names its protocol; bytes have none', () => {
    const routes = [{ metadata: metadata('HTTPRoute', 'a'), rules: [{ backends: shared() }] }];
    const detected = convert({});
    assert.equal(detected.routes.length, 1);
    assert.deepEqual(convertPolicy({ $case: 'http1', http1: { routes } }), detected);
    assert.deepEqual(convertPolicy({ $case: 'http2', http2: { routes } }), detected);
    assert.deepEqual(convertPolicy({ $case: 'opaque', opaque: {} }), { protocol: 'http', routes: [] });
    assert.equal(convertPolicy(undefined).invalid, 'it names no protocol');
  });

  test('are converted with everything that they say', () => {
    const converted = convert(
      {
        matches: [
          {
            path: { kind: { $case: 'prefix', prefix: '/a' } },
            headers: [{ name: 'X-A', value: { $case: 'exact', exact: Buffer.from('1') } }],
            queryParams: [{ name: 'q', value: { $case: 'regex', regex: '[0-9]+' } }],
            method: { type: { $case: 'registered', registered: 2 } },
          },
        ],
        filters: [
          { kind: { $case: 'requestHeaderModifier', requestHeaderModifier: { set: header('X-Set', '1') } } },
          { kind: { $case: 'redirect', redirect: { host: 'b', port: 81, status: 0 } } },
        ],
        backends: shared(7),
        timeouts: { request: { seconds: 1n, nanos: 500_000_000 } },
        retry: { maxRetries: 2, conditions: { statusRanges: [{ start: 500, end: 599 }] } },
      },
      [
        { match: { $case: 'exact', exact: 'a' } },
        { match: { $case: 'suffix', suffix: { reverseLabels: ['example', 'b'] } } },
      ],
    );
    const reference = { group: 'g', namespace: 'shop', port: 80 };
    assert.deepEqual(converted, {
      protocol: 'http',
      routes: [
        {
          reference: { ...reference, kind: 'HTTPRoute', name: 'a' },
          hosts: [
            { kind: 'exact', value: 'a' },
            { kind: 'suffix', value: 'b.example' },
          ],
          rules: [
            {
              matches: [
                {
                  path: { kind: 'prefix', value: '/a' },
                  fields: [{ name: 'x-a', value: { kind: 'exact', value: '1' } }],
                  parameters: [{ name: 'q', value: { kind: 'regex', value: '[0-9]+' } }],
                  method: 'PUT',
                },
              ],
              filters: [
                { kind: 'request-fields', changes: { add: [], set: [['x-set', '1']], remove: [] } },
                { kind: 'redirect', status: 301, host: 'b', port: 81 },
              ],
              backends: [
                {
                  authority: 'web:80',
                  weight: 7,
                  filters: [],
                  reference: { ...reference, kind: 'Service', name: 'web' },
                },
              ],
              policy: {
                timeouts: { requestMs: 1_500 },
                retry: { statuses: [[500, 599]], grpcCodes: [], maxRetries: 2 },
              },
            },
          ],
        },
      ],
    });
  });

  test('of gRPC too', () => {
    const rules = [
      {
        matches: [{ rpc: { service: 's', method: '' } }],
        filters: [
          { kind: { $case: 'failureInjector', failureInjector: { code: 14, message: 'm' } } } as const,
        ],
        backends: { kind: { $case: 'empty', empty: {} } } as const,
        retry: { maxRetries: 1, conditions: { internal: true } },
      },
    ];
    const converted = clientRoutes(
      OutboundPolicy.fromPartial({
        protocol: {
          kind: { $case: 'grpc', grpc: { routes: [{ metadata: metadata('GRPCRoute', 'g'), rules }] } },
        },
      } as unknown as Written),
    );
    assert.equal(converted.protocol, 'grpc');
    assert.deepEqual(converted.routes[0]?.rules, [
      {
        matches: [{ service: 's', fields: [] }],
        filters: [{ kind: 'failure', status: 14, grpc: true, message: 'm', numerator: 1, denominator: 1 }],
        backends: [],
        policy: { retry: { statuses: [], grpcCodes: [13], maxRetries: 1 } },
      },
    ]);
  });

  const refused: readonly (readonly [string, HttpRule, RegExp])[] = [
    [
      'an expression that is none',
      { matches: [{ path: { kind: { $case: 'regex', regex: '(' } } }] },
      /regular expression/,
    ],
    [
      'one without linear time',
      { matches: [{ headers: [{ name: 'a', value: { $case: 'regex', regex: '(?=a)b' } }] }] },
      /linear time/,
    ],
    ['a relative path', { matches: [{ path: { kind: { $case: 'prefix', prefix: 'a' } } }] }, /absolute/],
    ['a path of no kind', { matches: [{ path: {} }] }, /unknown kind/],
    ['a field without a value', { matches: [{ headers: [{ name: 'a' }] }] }, /matched by nothing/],
    [
      'a name that is none',
      { matches: [{ headers: [{ name: 'a b', value: { $case: 'regex', regex: 'x' } }] }] },
      /no name of a field/,
    ],
    [
      'a method that is none',
      { matches: [{ method: { type: { $case: 'unregistered', unregistered: 'A B' } } }] },
      /no method/,
    ],
    ['a weight that is too large', { backends: shared(1_000_001) }, /weight/],
    ['a backend that is nowhere', { backends: shared(1, '') }, /unknown kind/],
    ['no way to share', { backends: {} }, /unknown way/],
    [
      'a share of failures by nothing',
      {
        filters: [
          {
            kind: {
              $case: 'failureInjector',
              failureInjector: { status: 500, ratio: { numerator: 1, denominator: 0 } },
            },
          },
        ],
      },
      /denominator/,
    ],
    [
      'a failure that is no answer',
      { filters: [{ kind: { $case: 'failureInjector', failureInjector: { status: 99 } } }] },
      /status 99/,
    ],
    [
      'a redirect that is none',
      { filters: [{ kind: { $case: 'redirect', redirect: { status: 200 } } }] },
      /status 200/,
    ],
    [
      'a redirect to no host',
      { filters: [{ kind: { $case: 'redirect', redirect: { host: 'a/b' } } }] },
      /no host/,
    ],
    [
      'a field that frames',
      {
        filters: [
          {
            kind: {
              $case: 'requestHeaderModifier',
              requestHeaderModifier: { add: header('Content-Length') },
            },
          },
        ],
      },
      /cannot be changed/,
    ],
    [
      'a field that only proxies may set',
      {
        filters: [
          { kind: { $case: 'requestHeaderModifier', requestHeaderModifier: { remove: ['l5d-client-id'] } } },
        ],
      },
      /cannot be changed/,
    ],
    [
      'a value with a line break',
      {
        filters: [
          {
            kind: {
              $case: 'responseHeaderModifier',
              responseHeaderModifier: { set: header('a', 'b\r\nc: d') },
            },
          },
        ],
      },
      /cannot have the value/,
    ],
    [
      'statuses in the wrong order',
      { retry: { maxRetries: 1, conditions: { statusRanges: [{ start: 599, end: 500 }] } } },
      /no range of statuses/,
    ],
    ['a time below zero', { timeouts: { idle: { seconds: -1n, nanos: 0 } } }, /below zero/],
  ];
  for (const [what, rule, reason] of refused) {
    test(`C-305 refused with the reason: ${what}`, () => {
      const { routes, invalid = '' } = convert(rule);
      assert.match(invalid, reason);
      assert.deepEqual(routes, [], 'nothing is sent on by half a policy');
    });
  }

  test('C-305 a policy without a protocol is refused, a filter that is not known answers 500', () => {
    assert.match(clientRoutes(OutboundPolicy.fromPartial({})).invalid ?? '', /protocol/);
    const { routes, invalid } = convert({ filters: [{}] });
    assert.equal(invalid, undefined);
    const filter = routes[0]?.rules[0]?.filters[0];
    assert.equal(filter?.kind === 'failure' && filter.status, 500);
  });
});
