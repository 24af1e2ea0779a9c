// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { identityOf, parseAccountUser, parseIdentity } from './names.ts';

const domain = { identityNamespace: 'linkerd', trustDomain: 'cluster.local' };

it('forms the identity that Linkerd forms, and reads it back', () => {
  const account = { namespace: 'shop', name: 'web' };
  const identity = identityOf(account, domain);
  assert.equal(identity, 'web.shop.serviceaccount.identity.linkerd.cluster.local');
  assert.deepEqual(parseIdentity(identity, domain), account);
});

it('takes nothing for an identity that another mesh or a trick could have made', () => {
  for (const text of [
    '',
    'web.shop',
    'web.shop.serviceaccount.identity.linkerd.example.org',
    'web.shop.serviceaccount.identity.other.cluster.local',
    'x.web.shop.serviceaccount.identity.linkerd.cluster.local',
    'web.shop.serviceaccount.identity.linkerd.cluster.local.',
    'WEB.shop.serviceaccount.identity.linkerd.cluster.local',
    '*.shop.serviceaccount.identity.linkerd.cluster.local',
    '.shop.serviceaccount.identity.linkerd.cluster.local',
    'web/.shop.serviceaccount.identity.linkerd.cluster.local',
  ])
    assert.equal(parseIdentity(text, domain), undefined, text);
});

it('reads the account of a token review and nothing else', () => {
  assert.deepEqual(parseAccountUser('system:serviceaccount:shop:web'), { namespace: 'shop', name: 'web' });
  for (const text of [
    'system:serviceaccount:shop',
    'system:serviceaccount:shop:web:x',
    'system:node:shop:web',
    'kubernetes-admin',
    'system:serviceaccount:shop:we.b',
    'system:serviceaccount::web',
  ])
    assert.equal(parseAccountUser(text), undefined, text);
});
