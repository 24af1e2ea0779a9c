// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import type { Authorization } from '../model.ts';
import { authorize, clientIp, compilePolicy } from './authorize.ts';

const everywhere = [
  { net: '0.0.0.0/0', except: [] },
  { net: '::/0', except: [] },
];

function allowed(
  authorizations: readonly Partial<Authorization>[],
  client: { ip?: string; identity?: string; secured?: boolean },
): string | null {
  const policy = compilePolicy({
    protocol: 'detect',
    detectTimeoutMs: 1000,
    labels: {},
    authorizations: authorizations.map((authorization, index) => ({
      networks: everywhere,
      authentication: { kind: 'unauthenticated' },
      audit: false,
      labels: { name: String(index) },
      ...authorization,
    })),
  });
  const identity = client.identity ?? '';
  const facts = {
    ip: clientIp(client.ip ?? '10.0.0.1'),
    identity,
    secured: client.secured ?? identity !== '',
  };
  return authorize(policy, facts)?.labels['name'] ?? null;
}

describe('authorization', () => {
  test('without an entry only localhost passes', () => {
    assert.equal(allowed([], {}), null);
    assert.equal(allowed([], { identity: 'a.b' }), null);
    assert.equal(allowed([], { ip: '127.0.0.1' }), 'localhost');
    assert.equal(allowed([], { ip: '::1' }), 'localhost');
    assert.equal(allowed([], { ip: '127.0.0.2' }), null);
    assert.equal(allowed([], { ip: 'no address' }), null);
  });

  test('networks and their exceptions', () => {
    const networks = [
      { net: '10.0.0.0/8', except: ['10.1.0.0/16', '10.2.3.4'] },
      { net: 'fd00::/16', except: ['fd00:1::/32'] },
    ];
    for (const [ip, expected] of [
      ['10.0.0.1', '0'],
      ['10.1.2.3', null],
      ['10.2.3.4', null],
      ['10.2.3.5', '0'],
      ['11.0.0.1', null],
      ['fd00::1', '0'],
      ['fd00:1::1', null],
      ['::ffff:10.0.0.1', '0'],
    ] as const) {
      assert.equal(allowed([{ networks }], { ip }), expected, ip);
    }
  });

  test('an address that one entry excepts may be in another network', () => {
    const networks = [
      { net: '10.0.0.0/8', except: ['10.1.0.0/16'] },
      { net: '10.1.2.0/24', except: [] },
    ];
    assert.equal(allowed([{ networks }], { ip: '10.1.2.3' }), '0');
  });

  test('a network or exception that cannot be read matches nobody', () => {
    assert.equal(allowed([{ networks: [{ net: '10.0.0.0/33', except: [] }] }], {}), null);
    assert.equal(allowed([{ networks: [{ net: '0.0.0.0/0', except: ['nonsense'] }] }], {}), null);
  });

  test('tls-unauthenticated wants TLS that ended here', () => {
    const entry = { authentication: { kind: 'tls-unauthenticated' } } as const;
    assert.equal(allowed([entry], { secured: true }), '0');
    assert.equal(allowed([entry], { secured: false }), null);
  });

  test('identities are equal or not', () => {
    const entry: Partial<Authorization> = {
      authentication: { kind: 'tls', identities: ['web.shop.x', 'spiffe://td/web'], suffixes: [] },
    };
    assert.equal(allowed([entry], { identity: 'web.shop.x' }), '0');
    assert.equal(allowed([entry], { identity: 'spiffe://td/web' }), '0');
    assert.equal(allowed([entry], { identity: 'WEB.shop.x' }), null);
    assert.equal(allowed([entry], { identity: 'a.web.shop.x' }), null);
    assert.equal(allowed([entry], { identity: 'web.shop.x', secured: false }), null);
    assert.equal(allowed([entry], { identity: '', secured: true }), null);
  });

  test('suffixes match whole labels of DNS-like identities only', () => {
    const suffix = (text: string): Partial<Authorization> => ({
      authentication: { kind: 'tls', identities: [], suffixes: [text] },
    });
    for (const [text, identity, expected] of [
      ['shop.x', 'web.shop.x', '0'],
      ['.shop.x', 'web.shop.x', '0'],
      ['shop.x', 'shop.x', '0'],
      ['shop.x', 'webshop.x', null],
      ['', 'web.shop.x', '0'],
      ['', 'spiffe://td/web', null],
      ['td/web', 'spiffe://td/web', null],
    ] as const) {
      assert.equal(allowed([suffix(text)], { identity }), expected, `${identity} in ${text}`);
    }
  });

  test('the first entry that matches is the one that is named', () => {
    const entries: Partial<Authorization>[] = [
      { authentication: { kind: 'tls', identities: ['a.b'], suffixes: [] } },
      { networks: [{ net: '10.0.0.0/8', except: [] }] },
      {},
    ];
    assert.equal(allowed(entries, { identity: 'a.b' }), '0');
    assert.equal(allowed(entries, {}), '1');
    assert.equal(allowed(entries, { ip: '11.0.0.1' }), '2');
  });
});
