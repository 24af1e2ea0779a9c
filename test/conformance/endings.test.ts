// SPDX-License-Identifier: Apache-2.0
// How messages end, on every way: what was cut short looks cut short, whatever frames it; nothing of one message gets into
// another; and who answers early is heard.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import type { RawPeer } from '../../agent/proxy/exchange/raw-peers.ts';
import { createStage, everyWay, fieldsOf, type Stage, statusOf, test, type Way } from './stage.ts';

const GET = 'GET / HTTP/1.1\r\nHost: @\r\n\r\n';
const upgradeOf = (name: string): string =>
  `GET / HTTP/1.1\r\nHost: @\r\nConnection: upgrade\r\nUpgrade: ${name}\r\n\r\n`;
const SWITCHED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n';

describe('endings', () => {
  let stage: Stage;
  before(async () => {
    stage = await createStage();
  });
  beforeEach(() => stage.fresh());
  after(async () => stage.close());

  test('an answer that breaks off is an error for the client, whatever frames it and wherever it breaks', async () => {
    for (const way of everyWay) {
      for (const [answer, last] of [
        ['Content-Length: 10\r\n\r\n', '\r\n\r\n'],
        ['Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n', 'half'],
        ['Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-Sum:', 'half'],
        ['\r\ntill the end', 'till the end'],
      ] as const) {
        const { client, server } = await stage.exchange(way, GET);
        server.write(`HTTP/1.1 200 OK\r\n${answer}`);
        await client.take(last);
        server.socket.resetAndDestroy();
        assert.equal(await client.gone(), 'RST', `${way}: ${answer}`);
        assert.ok(!client.received.includes('0\r\n\r\n'), `${way}: ${answer}`);
      }
    }
  });

  test('a request that breaks off never looks whole to the application', async () => {
    for (const way of everyWay) {
      for (const [framing, start] of [
        ['Content-Length: 10', 'half'],
        ['Transfer-Encoding: chunked', '4\r\nhalf\r\n'],
      ] as const) {
        for (const end of ['end', 'resetAndDestroy'] as const) {
          const { client, server } = await stage.exchange(
            way,
            `POST / HTTP/1.1\r\nHost: @\r\n${framing}\r\n\r\n${start}`,
          );
          await server.take('half');
          client.socket[end]();
          await server.gone();
          assert.ok(!server.received.includes('0\r\n\r\n'), `${way}, ${framing}, ${end}`);
        }
      }
    }
  });

  test('who closes its side before the answer has given its request up, and takes nobody else along', async () => {
    for (const way of everyWay) {
      const other = await stage.exchange(way, GET);
      const { client, server } = await stage.exchange(way, GET);
      client.socket.end();
      await client.gone();
      await server.gone();
      other.server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      assert.match(await other.client.take('ok'), /^HTTP\/1\.1 200 /, way);
    }
  });

  test('an answer before the request is whole arrives whole', async () => {
    for (const way of everyWay) {
      for (const framing of ['Content-Length: 1000000', 'Transfer-Encoding: chunked']) {
        const { client, server } = await stage.exchange(
          way,
          `POST / HTTP/1.1\r\nHost: @\r\n${framing}\r\n\r\n${framing.startsWith('C') ? '' : '5\r\n'}start`,
        );
        server.write('HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno');
        const answer = await client.take('\r\n\r\nno');
        assert.equal(statusOf(answer), 413, way);
        // What is left of the request is no request.
        client.write('GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n');
        assert.equal(await client.rest(), '', `${way}, ${framing}`);
        assert.ok(
          !/GET/.test(
            stage
              .appOf(way)
              .connections.map((one) => one.received)
              .join(''),
          ),
          way,
        );
      }
    }
  });

  test('pipelined requests are answered in order, each with its own; after one that breaks off there is none', async () => {
    for (const way of everyWay) {
      const client = await stage.client(way);
      const host = `pipeline-${way}.test`;
      client.write(
        ['/1', '/2', '/3'].map((path) => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`).join(''),
      );
      let server: RawPeer | null = null;
      for (const path of ['/1', '/2']) {
        if (server === null || server.closed) server = await stage.appOf(way).accept();
        assert.match(await server.head(), new RegExp(`^GET ${path} `), way);
        server.write(`HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n${path}`);
        assert.match(await client.take(`\r\n\r\n${path}`), /^HTTP\/1\.1 200 /, way);
      }
      assert.ok(server !== null);
      assert.match(await server.head(), /^GET \/3 /);
      server.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf');
      await client.take('half');
      server.socket.resetAndDestroy();
      assert.equal(await client.gone(), 'RST', way);
    }
  });

  test('bytes beyond an answer, or before the request that they would answer, are nobody’s', async () => {
    for (const way of everyWay) {
      const client = await stage.client(way);
      const host = `surplus-${way}.test`;
      const ask = async (path: string): Promise<RawPeer> => {
        client.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
        const server = await stage.appOf(way).accept();
        assert.match(await server.head(), new RegExp(`^GET ${path} `), way);
        return server;
      };
      const poisoned = 'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned';
      const first = await ask('/1');
      first.write(`HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok${poisoned}`);
      await client.take('\r\n\r\nok');
      const second = await ask('/2');
      second.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
      await client.take('\r\n\r\nok');
      second.write(poisoned);
      await second.gone();
      const third = await ask('/3');
      third.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine');
      assert.match(await client.take('fine'), /^HTTP\/1\.1 200 /, way);
      assert.ok(!client.received.includes('poisoned'), way);
    }
  });

  test('a request that may have been processed is not sent again', async () => {
    for (const way of everyWay) {
      for (const method of ['GET', 'POST']) {
        const client = await stage.client(way);
        const host = `once-${way}-${method}.test`;
        const request = `${method} / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 0\r\n\r\n`;
        client.write(request);
        const server = await stage.appOf(way).accept();
        await server.head();
        server.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
        await client.take('ok');
        // On the connection that was kept, which then dies.
        const before = stage.appOf(way).connections.length;
        client.write(request);
        await server.head();
        server.socket.resetAndDestroy();
        assert.equal(statusOf(await client.head()), 502, `${way}, ${method}`);
        assert.equal(stage.appOf(way).connections.length, before, `${way}, ${method}`);
      }
    }
  });

  test('a tunnel: what one side ends the other sees ended, what breaks off is broken off', async () => {
    for (const way of everyWay) {
      for (const kind of ['upgrade', 'CONNECT'] as const) {
        const open = async (): Promise<{ client: RawPeer; server: RawPeer }> => {
          const request =
            kind === 'upgrade' ? upgradeOf('chat') : 'CONNECT @:80 HTTP/1.1\r\nHost: @:80\r\n\r\n';
          const { client, server } = await stage.exchange(way, request);
          server.write(kind === 'upgrade' ? `${SWITCHED}first` : 'HTTP/1.1 200 OK\r\n\r\nfirst');
          assert.match(await client.take('first'), /^HTTP\/1\.1 (101|200) /, way);
          client.write('up');
          await server.take('up');
          return { client, server };
        };
        const ended = await open();
        ended.client.socket.end('last words');
        assert.equal(await ended.server.rest(), 'last words', `${way}, ${kind}`);
        ended.server.socket.end('and mine');
        assert.equal(await ended.client.rest(), 'and mine', `${way}, ${kind}`);
        assert.equal(await ended.client.gone(), 'FIN');

        const first = await open();
        first.server.socket.end('all');
        assert.equal(await first.client.rest(), 'all', `${way}, ${kind}`);
        first.client.socket.end('mine too');
        assert.equal(await first.server.rest(), 'mine too', `${way}, ${kind}`);

        const died = await open();
        died.server.socket.resetAndDestroy();
        assert.equal(await died.client.gone(), 'RST', `${way}, ${kind}: the server dies`);
        const left = await open();
        left.client.socket.resetAndDestroy();
        assert.equal(await left.server.gone(), 'RST', `${way}, ${kind}: the client dies`);
      }
    }
  });

  test('each limit of HTTP/1 is counted, by the agent whose client ran into it', async () => {
    const counted = async (way: Way): Promise<ReadonlyMap<string, number>> => {
      const inside = way === 'in';
      const { scene } = stage;
      const text = await scene[inside ? 'server' : 'client'].metrics(
        (inside ? scene.serverPod : scene.clientPod).uid,
      );
      const lines = text.matchAll(/^nodemesh_http1_limits_total\{limit="(\w+)"[^}]*\} (\d+)$/gm);
      return new Map([...lines].map(([, limit = '', count]) => [limit, Number(count)]));
    };
    for (const way of ['out', 'in', 'both'] as const) {
      let before = await counted(way);
      const settled = async (limit: string): Promise<void> => {
        const deadline = performance.now() + 40_000;
        for (;;) {
          const now = await counted(way);
          const count = (now.get(limit) ?? 0) - (before.get(limit) ?? 0);
          before = now;
          if (count > 0) return;
          assert.ok(performance.now() < deadline, `${way}: ${limit} is not counted`);
          await pause(5);
        }
      };
      const refused = async (request: string, status: number): Promise<void> => {
        const client = await stage.client(way);
        client.write(request);
        assert.equal(statusOf(await client.head()), status, way);
        await client.close();
      };
      await refused(`GET / HTTP/1.1\r\nHost: a\r\n${'X: y\r\n'.repeat(100)}\r\n`, 431);
      await settled('head');
      await refused(`GET / HTTP/1.1\r\nHost: a\r\nX: ${'y'.repeat(131_072)}`, 431);
      await settled('head');
      await refused(`GET /${'y'.repeat(65_534)} HTTP/1.1\r\nHost: a\r\n\r\n`, 414);
      await settled('target');
      const chunked = 'POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n';
      const trailers = await stage.exchange(way, chunked);
      trailers.client.write(`0\r\n${'X: y\r\n'.repeat(101)}\r\n`);
      assert.equal(statusOf(await trailers.client.head()), 431, way);
      await settled('body_framing');

      // Nobody is refused for asking ahead, but no more of it is read.
      const ahead = await stage.exchange(way, GET);
      ahead.client.write(`GET /ahead HTTP/1.1\r\nHost: ${ahead.host}\r\n\r\n`.repeat(20_000));
      await settled('pipelined');
      await ahead.client.close();

      const early = await stage.exchange(
        way,
        'POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 9000000\r\n\r\nstart',
      );
      early.server.write('HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno');
      await early.client.take('\r\n\r\nno');
      early.client.write('x'.repeat(4_000_000));
      await settled('discarded');
      await early.client.gone();
    }
  });

  test('an upgrade that is refused is an ordinary answer, and the connection goes on', async () => {
    for (const way of everyWay) {
      const { client, server, host } = await stage.exchange(way, upgradeOf('chat'));
      server.write('HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno');
      const answer = await client.take('\r\n\r\nno');
      assert.equal(statusOf(answer), 426, way);
      assert.notEqual(fieldsOf(answer).get('connection'), 'close', way);
      client.write(`GET /next HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      assert.match(await (await stage.appOf(way).accept()).head(), /^GET \/next /, way);
    }
  });
});
