// SPDX-License-Identifier: Apache-2.0
// h2spec against both sides of the proxy that face applications: where a client's application dials out, and where an
// unmeshed client comes in. Every case must pass, the strict ones too, and none may be skipped or left out.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Http2Application, serveHttp2 } from '../proxy/http2-peers.ts';
import { CLIENT, createScene, HTTP2_PORT, type Scene, SERVER, services } from '../proxy/scene.ts';
import { type H2specCase, runH2spec } from './h2spec.ts';

/** The machine may have others to serve. */
const CASE_SECONDS = 10;
/** By scenario: the sections of h2spec. */
const scenarios = [
  ['C-420 connections, streams, frames, messages and HPACK in general', /^generic\//],
  ["C-421 a connection's preface", /^http2\/3\.5$/],
  ['C-422 format and size of frames, compression', /^http2\/4\./],
  ['C-423 states, numbers and concurrency of streams', /^http2\/5\.1/],
  ['C-424 streams that depend on themselves, errors of connections, extensions', /^http2\/5\.[345]/],
  ['C-425 each type of frame, flow control', /^http2\/6\./],
  ['C-426 error codes and messages', /^http2\/[78]/],
  ['C-427 HPACK', /^hpack\//],
] as const;
/** Of h2spec 2.6, for each side. */
const CASES = 146;

describe('h2spec', () => {
  let scene: Scene;
  let application: Http2Application;
  const cases: H2specCase[] = [];

  before(async () => {
    scene = await createScene();
    application = await serveHttp2(scene.serverNs, SERVER, HTTP2_PORT, (stream) => {
      // After the request: what is wrong with it shall be noticed first.
      stream.on('end', () => {
        if (stream.destroyed) return;
        stream.respond({ ':status': 200, 'content-type': 'text/plain' });
        stream.end('served');
      });
      stream.resume();
    });
    const options = { strict: true, timeoutSeconds: CASE_SECONDS };
    cases.push(...(await runH2spec(CLIENT, services.http2.listener, options)));
    cases.push(...(await runH2spec(SERVER, HTTP2_PORT, options)));
  });
  after(async () => {
    await scene.close();
    application.close();
  });

  for (const [title, sections] of scenarios) {
    test(title, () => {
      const outcomes = cases.filter(({ section }) => sections.test(section));
      assert.ok(outcomes.length > 0);
      assert.deepEqual(
        outcomes.filter(({ outcome }) => outcome !== 'passed'),
        [],
      );
    });
  }

  test('no case is left out', () => {
    assert.equal(cases.length, 2 * CASES);
    assert.deepEqual(
      cases.filter(({ section }) => !scenarios.some(([, sections]) => sections.test(section))),
      [],
    );
  });
});
