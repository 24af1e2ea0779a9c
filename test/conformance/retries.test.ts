// SPDX-License-Identifier: Apache-2.0
// Requests that are sent again where a service, or the request itself, asks for that: on a service's default route.

import { strict as assert } from 'node:assert';
import type { ClientHttp2Session, ServerHttp2Stream } from 'node:http2';
import { after, before, beforeEach, describe } from 'node:test';
import type { RequestPolicy, RetryPolicy } from '#lib/core/request-policy.ts';
import type { RawPeer, RawServer } from '../../agent/proxy/exchange/raw-peers.ts';
import type { Endpoint } from '../../agent/proxy/model.ts';
import { endpoint, patientClock, pause } from '../proxy/harness.ts';
import {
  fetch2,
  type Http2Answer,
  type Http2Application,
  http2At,
  serveHttp2,
} from '../proxy/http2-peers.ts';
import { HTTP2_PORT, PEER, SERVER } from '../proxy/scene.ts';
import { APP_PORT, createStage, fieldsOf, meshedEndpoint, type Stage, statusOf, test } from './stage.ts';

/** Plain HTTP/1.1 to the endpoint, and over HTTP/2 between agents. */
const ways = [
  ['out', endpoint(PEER, APP_PORT)],
  ['both', meshedEndpoint(APP_PORT)],
] as const;
type Way = (typeof ways)[number][0];

const fivexx: RetryPolicy = { statuses: [[500, 599]], grpcCodes: [], maxRetries: 1 };
const answer = (status: number): string =>
  `HTTP/1.1 ${status} Answer\r\n${status === 204 ? '' : 'Content-Length: 0\r\n'}\r\n`;

/** An application that gives these answers one after another, and nothing when they are used up. */
function answers(server: RawServer, statuses: readonly (number | null)[]): { readonly heads: string[] } {
  const heads: string[] = [];
  const serve = async (peer: RawPeer): Promise<void> => {
    for (;;) {
      const head = await peer.head();
      const length = Number(fieldsOf(head).get('content-length') ?? 0);
      await peer.when(() => peer.received.length >= length);
      peer.received = peer.received.slice(length);
      const status = statuses[heads.push(head) - 1];
      if (status !== undefined && status !== null) peer.write(answer(status));
    }
  };
  server.onConnection = (peer) => {
    serve(peer).catch((error: unknown) => {
      // The end of the connection; anything else is the test's to see.
      if (!peer.closed) throw error;
    });
  };
  return { heads };
}

describe('retries', () => {
  let stage: Stage;
  let services = 0;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => stage.fresh());
  after(async () => stage.close());

  const lead = (policy: RequestPolicy, to: Endpoint): void => {
    const service = stage.service(`retried-${services++}`, [to]);
    assert.ok(service.kind === 'service');
    stage.lead('other', { ...service, ...policy });
  };
  const ask = async (way: Way, statuses: readonly (number | null)[], fields = '', body = '') => {
    const { heads } = answers(stage.appOf(way), statuses);
    const client = await stage.dial('other');
    const length = body === '' ? '' : `Content-Length: ${body.length}\r\n`;
    client.write(
      `${body === '' ? 'GET' : 'POST'} / HTTP/1.1\r\nHost: retried-${services++}.test\r\n${length}${fields}\r\n${body}`,
    );
    const head = await client.head();
    await client.close();
    return { status: statusOf(head), head, heads };
  };

  test('C-254 a request’s own fields set retries and timeouts where that is allowed', async () => {
    for (const [way, to] of ways) {
      lead({ allowL5dRequestHeaders: true }, to);
      const fields = 'l5d-retry-http: 418,503\r\nl5d-retry-limit: 2\r\n';
      const retried = await ask(way, [503, 418, 204], fields);
      assert.deepEqual([retried.status, retried.heads.length], [204, 3], way);
      assert.ok(!retried.heads.some((head) => head.includes('l5d-retry')), 'they are for the proxy');
      const limited = await ask(way, [null], 'l5d-timeout: 200ms\r\n');
      assert.equal(limited.status, 504, way);
      const slow = await ask(way, [null, 204], 'l5d-retry-timeout: 100ms\r\nl5d-retry-limit: 1\r\n');
      assert.equal(slow.status, 204, way);
    }
  });
  test('C-256 where it is not allowed they are not heeded', async () => {
    for (const [way, to] of ways) {
      lead({}, to);
      const { status, heads } = await ask(way, [503, 204], 'l5d-retry-http: 5xx\r\nl5d-timeout: 1ms\r\n');
      assert.deepEqual([status, heads.length], [503, 1], way);
      assert.match(heads[0] ?? '', /l5d-retry-http: 5xx/i, 'nor taken away');
    }
  });
  test('C-258 a 5xx is retried', async () => {
    for (const [way, to] of ways) {
      lead({ retry: fivexx }, to);
      const { status, heads } = await ask(way, [500, 204]);
      assert.deepEqual([status, heads.length], [204, 2], way);
    }
  });
  test('C-259 the number of retries is limited', async () => {
    for (const [way, to] of ways) {
      lead({ retry: { ...fivexx, maxRetries: 2 } }, to);
      const { status, heads } = await ask(way, [500, 500, 504, 204]);
      assert.deepEqual([status, heads.length], [504, 3], way);
    }
  });
  test('C-260 an attempt that takes too long is retried', async () => {
    for (const [way, to] of ways) {
      lead({ retry: { ...fivexx, timeoutMs: 100 } }, to);
      const { status, heads } = await ask(way, [null, 204]);
      assert.deepEqual([status, heads.length], [204, 2], way);
    }
  });
  test('C-261 the last attempt is not cut short', async () => {
    for (const [way, to] of ways) {
      lead({ retry: { ...fivexx, timeoutMs: 100 } }, to);
      const server = stage.appOf(way);
      const { heads } = answers(server, []);
      const client = await stage.dial('other');
      client.write(`GET / HTTP/1.1\r\nHost: retried-${services++}.test\r\n\r\n`);
      while (heads.length < 2) await pause(20);
      await pause(1000);
      server.connections.at(-1)?.write(answer(204));
      assert.equal(statusOf(await client.head()), 204, way);
      await client.close();
    }
  });
  test('C-262 the request’s own limit prevails', async () => {
    for (const [way, to] of ways) {
      lead({ retry: { ...fivexx, maxRetries: 50, timeoutMs: 100 }, timeouts: { requestMs: 800 } }, to);
      const { status, head, heads } = await ask(way, []);
      assert.equal(status, 504, way);
      assert.equal(fieldsOf(head).get('l5d-proxy-error'), 'timed out waiting for the response');
      assert.ok(heads.length >= 2 && heads.length <= 8, `${way}: ${heads.length} attempts`);
    }
  });
  test('C-287 bodies are kept for a retry, up to 64 KiB', async () => {
    for (const [way, to] of ways) {
      lead({ retry: fivexx }, to);
      for (const [length, attempts] of [
        [1, 2],
        [40_000, 2],
        [65_536, 2],
        [65_537, 1],
      ] as const) {
        const { status, heads } = await ask(way, [500, 204], '', 'x'.repeat(length));
        assert.deepEqual([status, heads.length], [attempts === 2 ? 204 : 500, attempts], `${way} ${length}`);
      }
    }
  });

  describe('gRPC', () => {
    let application: Http2Application;
    let session: ClientHttp2Session;
    /** What the application does with each call, the first first. */
    let calls: ((stream: ServerHttp2Stream) => void)[] = [];
    let seen: string[] = [];
    before(async () => {
      application = await serveHttp2(stage.scene.serverNs, SERVER, HTTP2_PORT, (stream, headers) => {
        let body = '';
        stream.on('data', (chunk: Buffer) => {
          body += chunk.toString('latin1');
        });
        stream.on('end', () => {
          seen.push(`${String(headers['l5d-retry-grpc'] ?? '')}${body}`);
          calls.shift()?.(stream);
        });
      });
    });
    after(() => application.close());

    const RESPONSE = { ':status': 200, 'content-type': 'application/grpc' };
    const trailersOnly = (status: number) => (stream: ServerHttp2Stream) =>
      stream.respond({ ...RESPONSE, 'grpc-status': status }, { endStream: true });
    const message =
      (status: number, parts: readonly string[], waitMs = 0) =>
      (stream: ServerHttp2Stream) => {
        stream.respond(RESPONSE, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': status }));
        for (const part of parts) stream.write(part);
        if (waitMs === 0) stream.end();
        else patientClock.after(waitMs, () => stream.end());
      };
    const call = async (
      policy: RequestPolicy,
      does: typeof calls,
      fields: Record<string, string> = {},
    ): Promise<Http2Answer & { readonly status: unknown; readonly calls: number }> => {
      calls = [...does];
      seen = [];
      lead(policy, meshedEndpoint(HTTP2_PORT));
      const { host, port } = stage.address('other');
      session = http2At(host, port);
      try {
        const headers = {
          ':method': 'POST',
          ':path': '/a.B/C',
          'content-type': 'application/grpc',
          ...fields,
        };
        const got = await fetch2(session, headers, 'question');
        const status = got.trailers['grpc-status'] ?? got.headers['grpc-status'];
        return { ...got, status, calls: seen.length };
      } finally {
        session.destroy();
      }
    };
    const internal: RequestPolicy = { retry: { statuses: [], grpcCodes: [13], maxRetries: 1 } };

    test('C-255 a gRPC request’s own fields set retries where that is allowed', async () => {
      const got = await call(
        { allowL5dRequestHeaders: true },
        [trailersOnly(14), message(8, []), message(0, ['answer'])],
        { 'l5d-retry-grpc': 'unavailable,resource-exhausted', 'l5d-retry-limit': '2' },
      );
      assert.deepEqual([got.status, got.text, got.calls], ['0', 'answer', 3]);
      assert.deepEqual(new Set(seen), new Set(['question']));
    });
    test('C-257 where it is not allowed they are not heeded, nor taken away', async () => {
      const got = await call({}, [trailersOnly(14), trailersOnly(0)], { 'l5d-retry-grpc': 'unavailable' });
      assert.deepEqual([got.status, got.calls, seen[0]], ['14', 1, 'unavailablequestion']);
    });
    test('C-263 a gRPC status is retried, in the head or in trailers; others are not', async () => {
      for (const failure of [trailersOnly(13), message(13, [])]) {
        const got = await call(internal, [failure, message(0, ['answer'])]);
        assert.deepEqual([got.status, got.text, got.calls], ['0', 'answer', 2]);
      }
      const last = await call(internal, [trailersOnly(13), message(13, ['part'])]);
      assert.deepEqual([last.status, last.text, last.calls], ['13', 'part', 2]);
      for (const failure of [trailersOnly(5), message(5, ['part'])]) {
        const got = await call(internal, [failure, message(0, ['answer'])]);
        assert.deepEqual([got.status, got.calls], ['5', 1]);
      }
    });
    test('C-264 a gRPC attempt that takes too long is retried', async () => {
      const slow: RequestPolicy = { retry: { statuses: [], grpcCodes: [13], maxRetries: 1, timeoutMs: 100 } };
      const got = await call(slow, [() => undefined, message(0, ['answer'])]);
      assert.deepEqual([got.status, got.text, got.calls], ['0', 'answer', 2]);
    });
    test('C-288 trailers are looked at only where they follow the first part of the body at once', async () => {
      const late = await call(internal, [message(13, ['one'], 400), message(0, ['answer'])]);
      assert.deepEqual([late.status, late.text, late.calls], ['13', 'one', 1]);
      const two = await call(internal, [message(13, ['one', 'two'], 400), message(0, ['answer'])]);
      assert.deepEqual([two.status, two.text, two.calls], ['13', 'onetwo', 1]);
      const empty = await call(internal, [message(0, []), message(0, ['answer'])]);
      assert.deepEqual([empty.status, empty.text, empty.calls], ['0', '', 1]);
    });
  });
});
