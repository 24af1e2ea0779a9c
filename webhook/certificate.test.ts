// SPDX-License-Identifier: Apache-2.0
import 'reflect-metadata';
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import type { ApiCall, KubernetesApi } from '#lib/registry-kubernetes/api-client.ts';
import { ApiFailure } from '#lib/registry-kubernetes/api-failure.ts';
import { pemBlocks } from '#lib/x509/verify.ts';
import { keepCertificate } from './certificate.ts';

it('trusts the certificate that is in use still when the Secret is lost: another replica serves it for a while', async () => {
  let secret: { readonly metadata: object; readonly data?: object } = { metadata: { resourceVersion: '0' } };
  let version = 0;
  let bundle = '';
  const api = {
    call({ method = 'GET', path, body }: ApiCall) {
      if (path.endsWith('/secrets/tls')) {
        if (method === 'PUT') {
          const written = body as typeof secret;
          if (JSON.stringify(written.metadata) !== JSON.stringify(secret.metadata))
            return Promise.reject(new ApiFailure(409, 'Conflict', 'another replica was quicker'));
          secret = { ...written, metadata: { resourceVersion: `${++version}` } };
        }
        return Promise.resolve(secret);
      }
      if (method === 'PATCH') bundle = (body as { value: string }[])[1]?.value ?? '';
      return Promise.resolve({ webhooks: [{ name: 'one', clientConfig: { caBundle: bundle } }] });
    },
  } as unknown as KubernetesApi;
  const served: string[] = [];
  const kept = keepCertificate({
    api,
    namespace: 'mesh',
    secret: 'tls',
    configuration: 'validator',
    service: 'validator',
    lifetimeMs: 60_000,
    clock: new VirtualClock(),
    log: silentLog,
    onChange: ({ certificatePem }) => served.push(certificatePem),
  });
  try {
    // It looks by itself at first; one of the two is quicker.
    await kept.check().catch(() => kept.check());
    const [first] = served;
    secret = { metadata: secret.metadata };
    await kept.check();
    const second = served.at(-1);
    assert.ok(first !== undefined && second !== undefined && second !== first);
    const trusted = pemBlocks(Buffer.from(bundle, 'base64').toString()).map(
      (pem) => new X509Certificate(pem),
    );
    for (const certificate of [first, second].map((pem) => new X509Certificate(pem))) {
      assert.ok(trusted.some(({ publicKey }) => certificate.verify(publicKey)));
    }
  } finally {
    kept.close();
  }
});
