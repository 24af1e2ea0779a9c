// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { createApiClient, type KubernetesApi } from './api-client.ts';
import { createKubernetesCounts } from './counts.ts';
import { FakeApiServer, failure, send } from './fake-api-server.ts';
import { createTokenReviewer } from './token-review.ts';

describe('TokenReview through the API', () => {
  let fake: FakeApiServer;
  let api: KubernetesApi;
  let reviewer: TokenReviewer;
  beforeEach(async () => {
    fake = await FakeApiServer.start([]);
    api = createApiClient({
      access: { server: fake.url, credentials: () => Promise.resolve({ headers: {} }) },
      clock: systemClock,
      userAgent: 'test',
    });
    reviewer = createTokenReviewer({ api, counts: createKubernetesCounts(new MetricRegistry()) });
  });
  afterEach(async () => {
    api.close();
    await fake.close();
  });

  const answering = (status: Readonly<Record<string, unknown>>): void => {
    fake.intercept = (_, response) => {
      send(response, 201, { kind: 'TokenReview', status });
      return true;
    };
  };
  const user = { username: 'system:serviceaccount:shop:web', uid: 'u', groups: ['g'], extra: { k: ['v'] } };

  it('asks with the audiences and hands on who it is', async () => {
    answering({ authenticated: true, audiences: ['b'], user });
    assert.deepEqual(await reviewer.review('token', ['a', 'b']), {
      authenticated: true,
      audiences: ['b'],
      user,
      error: undefined,
    });
    const [asked] = fake.requests;
    assert.equal(asked?.path, '/apis/authentication.k8s.io/v1/tokenreviews');
    assert.deepEqual((asked.body as { spec: unknown }).spec, { token: 'token', audiences: ['a', 'b'] });
  });

  it('does not believe an answer that confirms no audience, or another one', async () => {
    for (const audiences of [undefined, null, [], ['https://kubernetes.default.svc']]) {
      answering({ authenticated: true, audiences, user });
      const answer = await reviewer.review('token', ['a']);
      assert.equal(answer.authenticated, false);
      assert.equal(answer.user, undefined);
      assert.deepEqual(answer.audiences, []);
    }
    assert.equal(fake.requests.length, 4, 'no second try');
  });

  it('says why a token is not authentic', async () => {
    answering({ error: '[invalid bearer token, token audiences ["x"] is invalid]' });
    assert.match((await reviewer.review('token', ['a'])).error ?? '', /token audiences/);
  });

  it('rejects when the API cannot be asked, and never asks for nothing', async () => {
    fake.intercept = (_, response) => {
      send(response, 500, failure(500, 'InternalError'));
      return true;
    };
    const isMeshError = (error: unknown): boolean =>
      error instanceof MeshError && error.code === 'MESH_KUBERNETES';
    await assert.rejects(reviewer.review('token', ['a']), isMeshError);
    fake.intercept = (_, response) => {
      send(response, 201, { status: { authenticated: 'yes' } });
      return true;
    };
    await assert.rejects(reviewer.review('token', ['a']), isMeshError);
  });

  it('asks nothing of an endless or empty token, or for no audience', async () => {
    assert.match((await reviewer.review('x'.repeat(20_000), ['a'])).error ?? '', /too long/);
    assert.match((await reviewer.review('', ['a'])).error ?? '', /empty/);
    await assert.rejects(reviewer.review('token', []), /no audience/);
    assert.equal(fake.requests.length, 0);
  });
});
