// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { judge } from './judge.ts';
import { answerReview } from './review.ts';

const POLICY = 'policy.linkerd.io';
const GATEWAY = 'gateway.networking.k8s.io';

const judged = (kind: string, spec: unknown, group = POLICY, oldSpec?: unknown) =>
  judge({ group, kind, namespace: 'shop', spec, oldSpec });
const refused = (kind: string, spec: unknown, group = POLICY): string =>
  judged(kind, spec, group).problems.join('; ');

const notYet = /^nodemesh does not enforce a .* yet, and refuses it so that nobody relies on it; /;

describe('the policy webhook', () => {
  it('names the field of a Server that is wrong', () => {
    const selector = { podSelector: { matchLabels: { app: 'web' } } };
    assert.match(
      refused('Server', { ...selector, port: 0 }),
      /^spec\.port: expected a port from 1 to 65535 or the name/,
    );
    assert.match(
      refused('Server', { ...selector, port: 80, prot: 1 }),
      /^spec\.prot: there is no such field$/,
    );
    assert.match(refused('Server', selector), /^spec\.port: is missing$/);
    assert.match(
      refused('Server', { port: 80 }),
      /^spec: needs exactly one of podSelector and externalWorkloadSelector$/,
    );
    assert.match(
      refused('Server', { ...selector, port: 80, accessPolicy: 'open' }),
      /Invalid 'accessPolicy' field/,
    );
    assert.match(
      refused('Server', { ...selector, port: 80, proxyProtocol: 'http' }),
      /spec\.proxyProtocol: expected one of/,
    );
    const matchExpressions = [{ key: 'a', operator: 'In' }];
    assert.match(
      refused('Server', { podSelector: { matchExpressions }, port: 80 }),
      /In and NotIn need values/,
    );
  });

  it('refuses what is right but enforced by nothing, and says what to use', () => {
    const targetRef = { group: POLICY, kind: 'Server', name: 'web' };
    const right: readonly [string, unknown][] = [
      ['Server', { podSelector: {}, port: 'http' }],
      ['ServerAuthorization', { server: { name: 'web' }, client: { unauthenticated: true } }],
      ['AuthorizationPolicy', { targetRef, requiredAuthenticationRefs: [] }],
      ['HTTPLocalRateLimitPolicy', { targetRef, total: { requestsPerSecond: 10 } }],
      ['EgressNetwork', { trafficPolicy: 'Deny' }],
    ];
    for (const [kind, spec] of right) assert.match(refused(kind, spec), notYet, kind);
    assert.match(
      refused('HTTPRoute', { parentRefs: [{ name: 'web' }] }),
      notYet,
      'the default parent is a Server',
    );
    const tcp = { parentRefs: [{ group: '', kind: 'Service', name: 'web' }], rules: [{}] };
    assert.match(refused('TCPRoute', tcp, GATEWAY), notYet);
  });

  it('lets pass what changes nothing of the spec, so that finalizers and labels can', () => {
    const spec = { podSelector: {}, port: 'http' };
    assert.deepEqual(judged('Server', spec, POLICY, { port: 'http', podSelector: {} }).problems, []);
    assert.notDeepEqual(judged('Server', spec, POLICY, { port: 80, podSelector: {} }).problems, []);
  });

  it('checks authorizations as Linkerd does', () => {
    const tls = { group: POLICY, kind: 'MeshTLSAuthentication', name: 'a' };
    const account = { kind: 'ServiceAccount', name: 'a' };
    const policy = (more: object): string =>
      refused('AuthorizationPolicy', {
        targetRef: { group: POLICY, kind: 'Server', name: 'web' },
        requiredAuthenticationRefs: [],
        ...more,
      });
    assert.match(policy({ requiredAuthenticationRefs: [tls, tls] }), /only a single MeshTLSAuthentication/);
    assert.match(policy({ requiredAuthenticationRefs: [tls, account] }), /may not be set together/);
    assert.match(
      policy({ requiredAuthenticationRefs: [{ kind: 'Secret', name: 'a' }] }),
      /unsupported authentication kind/,
    );
    assert.match(
      policy({ targetRef: { kind: 'Namespace', name: 'other' } }),
      /cannot target another namespace/,
    );
    assert.match(
      policy({ targetRef: { kind: 'Pod', name: 'x' } }),
      /expected a Server, HTTPRoute, GRPCRoute or Namespace/,
    );
    assert.match(policy({ targetRef: { kind: 'Namespace', name: 'shop' } }), notYet);
    const both = { server: { name: 'x' }, client: { unauthenticated: true, meshTLS: {} } };
    assert.match(refused('ServerAuthorization', both), /unauthenticated and meshTLS may not be set together/);
    const everybody = { unauthenticatedTLS: true, identities: ['*'] };
    const client = { server: { name: 'x' }, client: { meshTLS: everybody } };
    assert.match(refused('ServerAuthorization', client), /unauthenticatedTLS lets everybody in/);
  });

  it('checks networks and their exceptions', () => {
    const networks = (...list: object[]): string => refused('NetworkAuthentication', { networks: list });
    assert.equal(networks({ cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] }, { cidr: '1.2.3.4' }), '');
    assert.match(networks({ cidr: '10.0.0.0/33' }), /spec\.networks\[0\]\.cidr: is no address and no CIDR/);
    assert.match(networks({ cidr: '10.1.0.0/16', except: ['10.0.0.0/8'] }), /completely negated/);
    assert.match(
      networks({ cidr: '10.0.0.0/8', except: ['11.0.0.0/8'] }),
      /does not include exception 11\.0\.0\.0\/8/,
    );
    assert.match(networks(), /needs at least one/);
  });

  it('checks identities', () => {
    const identities = (...list: string[]): string => refused('MeshTLSAuthentication', { identities: list });
    assert.equal(identities('*', '*.shop', 'web.shop.serviceaccount.identity.linkerd.cluster.local'), '');
    assert.equal(identities('spiffe://mesh.example/ns/shop/sa/web'), '');
    for (const bad of ['Web.shop', 'a*.b', 'spiffe://', 'spiffe://a/', 'spiffe://a/../b', ''])
      assert.match(identities(bad), /is no identity/, bad);
    const identityRefs = [{ kind: 'Namespace', name: 'a', namespace: 'b' }];
    assert.match(refused('MeshTLSAuthentication', { identityRefs }), /a Namespace has no namespace/);
    assert.match(refused('MeshTLSAuthentication', {}), /exactly one of identities and identityRefs/);
  });

  it('checks rate limits against each other', () => {
    const limit = (more: object): string =>
      refused('HTTPLocalRateLimitPolicy', {
        targetRef: { group: POLICY, kind: 'Server', name: 'a' },
        ...more,
      });
    const total = { requestsPerSecond: 10 };
    assert.match(limit({ total, identity: { requestsPerSecond: 11 } }), /is more than total/);
    assert.match(limit({ total: { requestsPerSecond: 0 } }), /must be greater than 0/);
    const override = { requestsPerSecond: 5, clientRefs: [{ kind: 'Pod', name: 'x' }] };
    assert.match(
      limit({ total, overrides: [override] }),
      /spec\.overrides\[0\]\.clientRefs: expected ServiceAccounts/,
    );
  });

  it('takes a ServiceProfile with a warning, and finds what is wrong in conditions', () => {
    const profile = (route: object) =>
      judged('ServiceProfile', { routes: [{ name: 'a', ...route }] }, 'linkerd.io');
    const right = profile({
      condition: { all: [{ method: 'GET' }, { not: { pathRegex: '/x.*' } }] },
      responseClasses: [{ condition: { status: { min: 500, max: 599 } }, isFailure: true }],
      timeout: '1m30s',
    });
    assert.deepEqual(right.problems, []);
    assert.match(right.warnings.join(), /only pods with Linkerd's proxy act on spec\.routes;/);
    const targets = { dstOverrides: [{ authority: 'a.shop.svc.cluster.local', weight: '500m' }] };
    assert.deepEqual(judged('ServiceProfile', targets, 'linkerd.io'), { problems: [], warnings: [] });
    const wrong = (route: object): string => profile(route).problems.join('; ');
    assert.match(
      wrong({ condition: {} }),
      /spec\.routes\[0\]\.condition: needs one of all, any, not, method, pathRegex/,
    );
    assert.match(
      wrong({ condition: { any: [{ pathRegex: '(' }] } }),
      /condition\.any\[0\]\.pathRegex: not usable/,
    );
    assert.match(wrong({ condition: { path: '/' } }), /condition\.path: there is no such field/);
    assert.match(wrong({ condition: { method: 'GET' }, timeout: 'fast' }), /timeout: expected a duration/);
    const status = { status: { min: 500, max: 400 } };
    assert.match(
      wrong({ condition: { method: 'GET' }, responseClasses: [{ condition: status }] }),
      /max is less than min/,
    );
    let deep: object = { method: 'GET' };
    for (let depth = 0; depth < 50; depth++) deep = { not: deep };
    assert.match(wrong({ condition: deep }), /nest deeper than 32/);
  });

  it('checks routes of Services for what would make them count for nothing', () => {
    const route = (rule: object, kind = 'HTTPRoute', group = POLICY): string =>
      refused(
        kind,
        { parentRefs: [{ group: 'core', kind: 'Service', name: 'web', port: 80 }], rules: [rule] },
        group,
      );
    assert.equal(route({ matches: [{ path: { value: '/x' } }], backendRefs: [{ name: 'a', port: 80 }] }), '');
    assert.match(route({ matches: [{ path: { value: 'x' } }] }), /paths must be absolute, not "x"/);
    assert.match(
      route({ matches: [{ path: { type: 'RegularExpression', value: '(a)\\1' } }] }),
      /not usable as a regular/,
    );
    assert.match(route({ backendRefs: [{ name: 'a' }] }), /cannot reference a Service without a port/);
    assert.match(
      route({ filters: [{ type: 'URLRewrite' }] }, 'HTTPRoute', GATEWAY),
      /URLRewrite are not supported/,
    );
    assert.match(route({ timeouts: { request: 'soon' } }), /timeouts\.request: "soon" is no duration/);
    assert.match(
      route({ timeouts: { request: '1s', backendRequest: '2s' } }),
      /backendRequest: is longer than request/,
    );
    const method = { type: 'RegularExpression', service: 'a' };
    assert.match(
      route({ matches: [{ method }] }, 'GRPCRoute', GATEWAY),
      /unsupported GRPCRoute method match type/,
    );
  });

  it('leaves routes of gateways to their controllers, whatever is in them', () => {
    const spec = { parentRefs: [{ name: 'gateway' }], rules: [{ filters: [{ type: 'URLRewrite' }] }] };
    assert.deepEqual(judged('HTTPRoute', spec, GATEWAY), { problems: [], warnings: [] });
    assert.deepEqual(judged('TLSRoute', { parentRefs: [{ name: 'gateway' }] }, GATEWAY).problems, []);
  });

  it('calls an unknown kind invalid', () => {
    assert.match(refused('Fnord', {}), /Fnord of policy\.linkerd\.io is not a kind that this webhook knows/);
  });
});

describe('a review', () => {
  const request = (more: object) => ({
    request: {
      uid: 'u1',
      kind: { group: POLICY, version: 'v1beta3', kind: 'Server' },
      namespace: 'shop',
      ...more,
    },
  });

  it('is answered with its uid, the object and every problem', () => {
    const answer = answerReview(request({ object: { metadata: { name: 'web' }, spec: { port: 0 } } }));
    assert.equal(answer?.allowed, false);
    const body = JSON.stringify(answer?.body);
    assert.match(
      body,
      /"uid":"u1","allowed":false,"status":\{"code":400,"message":"Server shop\/web: spec\.port: /,
    );
  });

  it('of an object on its way out is always let pass', () => {
    const metadata = { name: 'web', deletionTimestamp: '2026-01-01T00:00:00Z' };
    assert.equal(answerReview(request({ object: { metadata, spec: { port: 0 } } }))?.allowed, true);
  });

  it('that is none is told so', () => {
    assert.equal(answerReview({}), undefined);
    assert.equal(answerReview(null), undefined);
  });
});
