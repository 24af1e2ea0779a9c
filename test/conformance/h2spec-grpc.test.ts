// SPDX-License-Identifier: Apache-2.0
// h2spec against the gRPC server of the control plane. Every case must pass, the strict ones too.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { silentLog } from '#lib/core/log.ts';
import { CallServer } from '#lib/grpc/call-server.ts';
import { listenPlain, portOf } from '#lib/grpc/raw-client.ts';
import { runH2spec } from './h2spec.ts';

/** Of h2spec 2.6. */
const CASES = 146;

test("h2spec against the control plane's server: no case fails, none is skipped or left out", async () => {
  const server = new CallServer({ log: silentLog });
  const listener = await listenPlain(server);
  try {
    const options = { strict: true, timeoutSeconds: 10 };
    const cases = await runH2spec('127.0.0.1', portOf(listener), options);
    assert.equal(cases.length, CASES);
    assert.deepEqual(
      cases.filter(({ outcome }) => outcome !== 'passed'),
      [],
    );
  } finally {
    listener.close();
    await server.close(0);
  }
});
