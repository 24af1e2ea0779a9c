// SPDX-License-Identifier: Apache-2.0
// The local TokenReview: verifies tokens of token-signer.ts and, as Kubernetes does, that the account, the pod and
// the node they are bound to still exist with the same uid. Answers; decides nothing about what a token may do.

import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { array, number, object, optional, safeParse, string, type InferOutput } from 'valibot';
import type { Clock } from '#lib/core/clock.ts';
import { podTerminal } from '#lib/registry/model.ts';
import type { Registry } from '#lib/registry/registry.ts';
import { tokenExtra, type TokenReviewer, type TokenReviewStatus } from '#lib/registry/token-review.ts';
import { LOCAL_TOKEN_ISSUER } from './token-signer.ts';

const TOKEN_BYTES_MAX = 16 * 1024;
/** Clocks of different processes of one machine agree; this only covers the rounding to seconds. */
const CLOCK_SKEW_SECONDS = 1;

const ref = object({ name: string(), uid: string() });
const claimsSchema = object({
  iss: string(),
  sub: string(),
  aud: array(string()),
  exp: number(),
  nbf: number(),
  'kubernetes.io': object({
    namespace: string(),
    serviceaccount: ref,
    pod: optional(ref),
    node: optional(ref),
  }),
});
type Claims = InferOutput<typeof claimsSchema>;
const headerSchema = object({ alg: string() });

export interface LocalTokenReviewerOptions {
  /** PEM of the public key of the local mesh's token signer. */
  readonly publicKeyPem: string;
  readonly registry: Pick<Registry, 'get' | 'synced'>;
  readonly cluster: string;
  readonly clock: Clock;
}

export function createLocalTokenReviewer(options: LocalTokenReviewerOptions): TokenReviewer {
  const key = createPublicKey(options.publicKeyPem);
  return {
    async review(token, audiences) {
      await options.registry.synced();
      const claims = readToken(token, key);
      if (typeof claims === 'string') return denied(claims);
      const problem =
        timeProblem(claims, options.clock.wallMs() / 1000) ??
        boundObjectProblem(claims, options.registry, options.cluster);
      if (problem !== undefined) return denied(problem);
      const matching = audiences.filter((audience) => claims.aud.includes(audience));
      if (matching.length === 0)
        return denied(
          `token audiences [${claims.aud.join(', ')}] are none of the asked ones [${audiences.join(', ')}]`,
        );
      return accepted(claims, matching);
    },
  };
}

const denied = (error: string): TokenReviewStatus => ({
  authenticated: false,
  audiences: [],
  user: undefined,
  error,
});

function accepted(claims: Claims, audiences: readonly string[]): TokenReviewStatus {
  const { namespace, serviceaccount, pod, node } = claims['kubernetes.io'];
  return {
    authenticated: true,
    audiences,
    user: {
      username: claims.sub,
      uid: serviceaccount.uid,
      groups: ['system:serviceaccounts', `system:serviceaccounts:${namespace}`, 'system:authenticated'],
      extra: {
        ...(pod === undefined ? {} : { [tokenExtra.podName]: [pod.name], [tokenExtra.podUid]: [pod.uid] }),
        ...(node === undefined
          ? {}
          : { [tokenExtra.nodeName]: [node.name], [tokenExtra.nodeUid]: [node.uid] }),
      },
    },
    error: undefined,
  };
}

/** The claims of a token whose signature holds, or what is wrong with it. */
function readToken(token: string, key: KeyObject): Claims | string {
  if (token.length > TOKEN_BYTES_MAX) return 'the token is too long';
  const [header, payload, signature, ...rest] = token.split('.');
  if (header === undefined || payload === undefined || signature === undefined || rest.length > 0)
    return 'the token is no JSON Web Token';
  const headerValue = safeParse(headerSchema, decode(header));
  // The key decides the algorithm, not the token.
  if (!headerValue.success || headerValue.output.alg !== 'ES256') return 'the token is not signed with ES256';
  const valid = verify(
    'sha256',
    Buffer.from(`${header}.${payload}`),
    { key, dsaEncoding: 'ieee-p1363' },
    Buffer.from(signature, 'base64url'),
  );
  if (!valid) return 'the token is not signed by the key of this mesh';
  const claims = safeParse(claimsSchema, decode(payload));
  return claims.success ? claims.output : 'the token lacks claims';
}

function decode(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString());
  } catch {
    // What is no JSON matches no schema: the caller reports it.
    return undefined;
  }
}

function timeProblem(claims: Claims, nowSeconds: number): string | undefined {
  if (claims.iss !== LOCAL_TOKEN_ISSUER) return `the token's issuer is ${claims.iss}`;
  if (nowSeconds >= claims.exp + CLOCK_SKEW_SECONDS) return 'the token has expired';
  if (nowSeconds < claims.nbf - CLOCK_SKEW_SECONDS) return 'the token is not valid yet';
  return undefined;
}

function boundObjectProblem(
  claims: Claims,
  registry: Pick<Registry, 'get'>,
  cluster: string,
): string | undefined {
  const { namespace, serviceaccount, pod, node } = claims['kubernetes.io'];
  if (claims.sub !== `system:serviceaccount:${namespace}:${serviceaccount.name}`)
    return "the token's subject is not its account";
  const account = registry.get('ServiceAccount', { cluster, namespace, name: serviceaccount.name });
  if (account?.metadata.uid !== serviceaccount.uid)
    return `the account ${namespace}/${serviceaccount.name} of the token does not exist any more`;
  if (pod !== undefined) {
    const found = registry.get('Pod', { cluster, namespace, name: pod.name });
    if (found?.metadata.uid !== pod.uid || podTerminal(found))
      return `the pod ${namespace}/${pod.name} of the token is not running`;
    if (found.spec.serviceAccountName !== serviceaccount.name)
      return `the pod ${namespace}/${pod.name} does not run as ${serviceaccount.name}`;
  }
  if (node !== undefined) {
    const found = registry.get('Node', { cluster, namespace: '', name: node.name });
    if (found?.metadata.uid !== node.uid) return `the node ${node.name} of the token does not exist any more`;
  }
  return undefined;
}
