// SPDX-License-Identifier: Apache-2.0
// Any well-formed messages, cut anywhere, pass unchanged and in order: a property on real sockets.

import assert from 'node:assert/strict';
import { setImmediate as turn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { proxyFixture, testBoth } from './proxy-fixture.ts';
import type { RawPeer } from './raw-peers.ts';

interface Message {
  readonly fields: readonly (readonly [string, string])[];
  readonly body: string;
  readonly chunk: number;
  /** Lengths of the pieces it is written in, used in turn. */
  readonly pieces: readonly number[];
}

const text = (size: number): fc.Arbitrary<string> =>
  fc.uint8Array({ maxLength: size }).map((array) => Buffer.from(array).toString('latin1'));
const message: fc.Arbitrary<Message> = fc.record({
  fields: fc.array(fc.tuple(fc.stringMatching(/^X-[A-Za-z0-9]{0,8}$/), fc.stringMatching(/^[!-~]{0,20}$/)), {
    maxLength: 5,
  }),
  body: fc.oneof(
    text(200),
    fc.tuple(text(50), fc.nat(3000)).map(([unit, count]) => unit.repeat(count)),
  ),
  /** 0: by length. */
  chunk: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 40_000 })),
  pieces: fc.array(fc.oneof(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 100_000 })), {
    minLength: 1,
    maxLength: 6,
  }),
});

function render(start: string, { fields, body, chunk }: Message): string {
  const head = `${start}\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')}`;
  if (chunk === 0) return `${head}Content-Length: ${body.length}\r\n\r\n${body}`;
  let chunks = '';
  for (let at = 0; at < body.length; at += chunk) {
    const part = body.slice(at, at + chunk);
    chunks += `${part.length.toString(16)}\r\n${part}\r\n`;
  }
  return `${head}Transfer-Encoding: chunked\r\n\r\n${chunks}0\r\nX-Trailer: 1\r\n\r\n`;
}

/** Writes in pieces; after a few hundred the rest goes at once, so that tiny pieces of large bodies end. */
async function dribble(peer: RawPeer, whole: string, pieces: readonly number[]): Promise<void> {
  let at = 0;
  for (let index = 0; at < whole.length && index < 300; index++) {
    const piece = pieces[index % pieces.length] ?? whole.length;
    peer.write(whole.slice(at, at + piece));
    at += piece;
    await turn();
  }
  if (at < whole.length) peer.write(whole.slice(at));
}

async function takes(peer: RawPeer, expected: string): Promise<void> {
  await peer.when(() => peer.received.length >= expected.length);
  assert.ok(peer.received.startsWith(expected), 'what came is not what was sent');
  peer.received = peer.received.slice(expected.length);
}

testBoth('any pipeline of messages passes unchanged and in order', async (t) => {
  const fixture = await proxyFixture(t);
  let server: RawPeer | undefined;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(message, message), { minLength: 1, maxLength: 4 }),
      async (exchanges) => {
        const client = await fixture.client();
        const rendered = exchanges.map(
          ([request, response], index) =>
            [
              render(`POST /${index} HTTP/1.1\r\nHost: a`, request),
              render('HTTP/1.1 200 OK', response),
              response.pieces,
            ] as const,
        );
        const sending = dribble(
          client,
          rendered.map(([request]) => request).join(''),
          exchanges[0]?.[0].pieces ?? [],
        );
        const answering = (async () => {
          for (const [request, response, pieces] of rendered) {
            server ??= await fixture.upstream.accept();
            await takes(server, request);
            assert.equal(server.received, '', 'one request at a time');
            await dribble(server, response, pieces);
          }
        })();
        await Promise.all([
          sending,
          answering,
          takes(client, rendered.map(([, response]) => response).join('')),
        ]);
        assert.equal(client.received, '');
        await client.close();
      },
    ),
    { numRuns: 60 },
  );
  assert.equal(fixture.upstream.connections.length, 1, 'all over one connection');
  assert.equal(fixture.endpoint.slot?.load.inFlight, 0);
});
