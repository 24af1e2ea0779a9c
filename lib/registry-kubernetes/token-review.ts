// SPDX-License-Identifier: Apache-2.0
// TokenReview asked of the Kubernetes API. Always with audiences: an answer that confirms none of them is no
// confirmation, and there is no second try without.

import { array, boolean, nullish, object, optional, parse, record, string } from 'valibot';
import { MeshError } from '#lib/core/errors.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import type { KubernetesApi } from './api-client.ts';
import type { KubernetesCounts } from './counts.ts';

const answer = object({
  status: object({
    authenticated: optional(boolean(), false),
    audiences: nullish(array(string()), []),
    error: optional(string()),
    user: optional(
      object({
        username: optional(string(), ''),
        uid: optional(string(), ''),
        groups: nullish(array(string()), []),
        extra: nullish(record(string(), array(string())), {}),
      }),
    ),
  }),
});

const TOKEN_BYTES_MAX = 16 * 1024;
const TIMEOUT_MS = 10_000;

export function createTokenReviewer(options: {
  readonly api: KubernetesApi;
  readonly counts: KubernetesCounts;
}): TokenReviewer {
  const { api, counts } = options;
  return {
    async review(token, audiences) {
      if (audiences.length === 0) throw new MeshError('MESH_TOKEN_INVALID', 'a review names no audience');
      if (token.length === 0 || token.length > TOKEN_BYTES_MAX) {
        const error = token.length === 0 ? 'the token is empty' : 'the token is too long';
        return { authenticated: false, audiences: [], user: undefined, error };
      }
      try {
        const { status } = parse(
          answer,
          await api.call({
            method: 'POST',
            path: '/apis/authentication.k8s.io/v1/tokenreviews',
            body: {
              apiVersion: 'authentication.k8s.io/v1',
              kind: 'TokenReview',
              spec: { token, audiences },
            },
            timeoutMs: TIMEOUT_MS,
          }),
        );
        const confirmed = status.audiences.filter((audience) => audiences.includes(audience));
        const authenticated = status.authenticated && confirmed.length > 0 && status.user !== undefined;
        counts.reviewed(authenticated ? 'authentic' : 'refused');
        return {
          authenticated,
          audiences: confirmed,
          user: authenticated ? status.user : undefined,
          error: authenticated ? undefined : (status.error ?? 'the token is not for the audiences asked for'),
        };
      } catch (error) {
        counts.reviewed('failed');
        throw MeshError.from(error, 'MESH_KUBERNETES', 'the token was not reviewed');
      }
    },
  };
}
