// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { systemClock, VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import type { TokenReviewer, TokenReviewStatus } from '#lib/registry/token-review.ts';
import { createFolderRegistry, type FolderRegistry } from './folder-registry.ts';
import { createLocalTokenReviewer } from './token-review.ts';
import { type LocalTokenClaims, makeTokenKey, signLocalToken } from './token-signer.ts';

const key = makeTokenKey();
const manifests = [
  { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1', uid: 'node-1' } },
  { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'web', namespace: 'shop', uid: 'sa-1' } },
  { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'cart', namespace: 'shop', uid: 'sa-2' } },
  ...['Running', 'Failed'].map((phase) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: `web-${phase.toLowerCase()}`, namespace: 'shop', uid: `pod-${phase}` },
    spec: { nodeName: 'n1', serviceAccountName: 'web', containers: [{ name: 'main', image: 'image' }] },
    status: { phase },
  })),
];

describe('local TokenReview', () => {
  let folder = '';
  let registry: FolderRegistry;
  let clock: VirtualClock;
  let reviewer: TokenReviewer;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-tokens-'));
    writeFileSync(join(folder, 'all.yaml'), manifests.map((one) => `---\n${JSON.stringify(one)}\n`).join(''));
    registry = createFolderRegistry({ folder, cluster: 'local', clock: systemClock, log: silentLog });
    clock = new VirtualClock();
    reviewer = createLocalTokenReviewer({
      publicKeyPem: key.publicKeyPem,
      registry,
      cluster: 'local',
      clock,
    });
  });
  afterEach(async () => {
    await registry.close();
    rmSync(folder, { recursive: true });
  });

  const review = (claims: Partial<LocalTokenClaims>, audiences = ['a', 'b']): Promise<TokenReviewStatus> =>
    reviewer.review(
      signLocalToken(
        {
          namespace: 'shop',
          serviceAccount: { name: 'web', uid: 'sa-1' },
          pod: { name: 'web-running', uid: 'pod-Running' },
          node: { name: 'n1', uid: 'node-1' },
          audiences: ['b', 'c'],
          issuedAtMs: clock.wallMs(),
          lifetimeMs: 60_000,
          ...claims,
        },
        key.privateKeyPem,
      ),
      audiences,
    );

  it('answers in the words of Kubernetes', async () => {
    assert.deepEqual(await review({}), {
      authenticated: true,
      audiences: ['b'],
      user: {
        username: 'system:serviceaccount:shop:web',
        uid: 'sa-1',
        groups: ['system:serviceaccounts', 'system:serviceaccounts:shop', 'system:authenticated'],
        extra: {
          'authentication.kubernetes.io/pod-name': ['web-running'],
          'authentication.kubernetes.io/pod-uid': ['pod-Running'],
          'authentication.kubernetes.io/node-name': ['n1'],
          'authentication.kubernetes.io/node-uid': ['node-1'],
        },
      },
      error: undefined,
    });
  });

  it('does not authenticate what is bound to something that is gone or is another by now', async () => {
    const cases: readonly (readonly [Partial<LocalTokenClaims>, RegExp])[] = [
      [{ serviceAccount: { name: 'web', uid: 'sa-9' } }, /account shop\/web .* does not exist/],
      [{ namespace: 'other' }, /account other\/web/],
      [{ pod: { name: 'web-running', uid: 'pod-9' } }, /pod shop\/web-running .* not running/],
      [{ pod: { name: 'web-gone', uid: 'pod-Running' } }, /pod shop\/web-gone .* not running/],
      [{ pod: { name: 'web-failed', uid: 'pod-Failed' } }, /pod shop\/web-failed .* not running/],
      [{ serviceAccount: { name: 'cart', uid: 'sa-2' } }, /does not run as cart/],
      [{ node: { name: 'n1', uid: 'node-9' } }, /node n1 .* does not exist/],
      [{ node: { name: 'n9', uid: 'node-1' } }, /node n9 .* does not exist/],
    ];
    for (const [claims, reason] of cases) {
      const answer = await review(claims);
      assert.equal(answer.authenticated, false);
      assert.equal(answer.user, undefined);
      assert.match(answer.error ?? '', reason);
    }
  });

  it('does not authenticate for audiences that the token lacks', async () => {
    for (const audiences of [['x'], []]) {
      const answer = await review({}, audiences);
      assert.equal(answer.authenticated, false);
      assert.match(answer.error ?? '', /audiences \[b, c\]/);
    }
  });

  it('authenticates an unbound token without naming a pod', async () => {
    const { pod, node, ...unbound } = {
      namespace: 'shop',
      serviceAccount: { name: 'web', uid: 'sa-1' },
      audiences: ['a'],
      issuedAtMs: clock.wallMs(),
      lifetimeMs: 60_000,
      pod: undefined,
      node: undefined,
    };
    assert.ok(pod === undefined && node === undefined);
    const answer = await reviewer.review(signLocalToken(unbound, key.privateKeyPem), ['a']);
    assert.deepEqual(answer.user?.extra, {});
  });

  it('holds to the times of the token', async () => {
    const token = { issuedAtMs: clock.wallMs(), lifetimeMs: 60_000 };
    clock.advance(60_000);
    assert.equal((await review(token)).authenticated, true);
    clock.advance(1000);
    assert.match((await review(token)).error ?? '', /expired/);
    assert.match((await review({ issuedAtMs: clock.wallMs() + 5000 })).error ?? '', /not valid yet/);
  });

  it('reads no endless token', async () => {
    assert.match((await reviewer.review('x'.repeat(20_000), ['a'])).error ?? '', /too long/);
  });
});
