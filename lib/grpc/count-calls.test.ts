// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Metadata, Server, ServerCredentials, credentials, status } from '@grpc/grpc-js';
import { IdentityClient, type CertifyRequest, IdentityService } from '#lib/proto/gen/linkerd/identity.ts';
import { countCalls } from './count-calls.ts';

const request: CertifyRequest = {
  identity: 'a',
  token: Buffer.alloc(0),
  certificateSigningRequest: Buffer.alloc(0),
};

test('begin, first answer and end of a call, as the server says it, and of one that never got there', async (t) => {
  const server = new Server();
  let refusing = false;
  server.addService(IdentityService, {
    certify: (_call: unknown, done: (error: object | null, value?: object) => void) => {
      if (refusing) done({ code: status.PERMISSION_DENIED, details: 'no', metadata: new Metadata() });
      else
        done(null, { leafCertificate: Buffer.alloc(0), intermediateCertificates: [], validUntil: undefined });
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  const heard: string[] = [];
  const interceptor = countCalls(() => {
    heard.push('begun');
    return {
      answered: () => heard.push('answered'),
      ended: (code, reached) => heard.push(`ended ${code} ${reached}`),
    };
  });
  const client = new IdentityClient(`127.0.0.1:${port}`, credentials.createInsecure(), {
    interceptors: [interceptor],
  });
  t.after(() => client.close());
  const call = async (): Promise<void> =>
    new Promise((resolve) => {
      client.certify(request, () => resolve());
    });
  await call();
  assert.deepEqual(heard.splice(0), ['begun', 'answered', 'ended 0 true']);
  refusing = true;
  await call();
  assert.deepEqual(
    heard
      .splice(0)
      .filter((word) => word !== 'answered')
      .map((word) => word.replace(/ (true|false)$/, '')),
    ['begun', `ended ${status.PERMISSION_DENIED}`],
  );
  server.forceShutdown();
  await call();
  assert.equal(heard[0], 'begun');
  assert.match(heard.at(-1) ?? '', /^ended 14 false$/);
});
