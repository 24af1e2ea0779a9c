// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, get as httpGet, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { TapServer, type TapSource, type TapWish } from './tap.ts';

type Heard = Parameters<TapSource['open']>[3];

describe('tap', () => {
  let server: Server;
  let taps: TapServer;
  let opened: { readonly pod: string; readonly wish: TapWish; readonly heard: Heard; closed: boolean }[] = [];

  before(async () => {
    server = createServer((request, response) => taps.serve(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => {
    server.close();
    server.closeAllConnections();
  });
  beforeEach(() => {
    opened = [];
    taps = new TapServer({
      open: (namespace, name, wish, heard) => {
        if (name === 'none') return undefined;
        const tap = { pod: `${namespace}/${name}`, wish, heard, closed: false };
        opened.push(tap);
        return {
          close: () => {
            tap.closed = true;
          },
        };
      },
    });
  });

  const ask = async (query: string): Promise<IncomingMessage> => {
    const { port } = server.address() as AddressInfo;
    const [response] = (await once(
      httpGet({ host: '127.0.0.1', port, path: `/tap?${query}`, agent: false }),
      'response',
    )) as [IncomingMessage];
    return response;
  };
  const text = async (response: IncomingMessage): Promise<string> => {
    let all = '';
    for await (const chunk of response) all += String(chunk);
    return all;
  };

  test('gives an event a line and ends with the last of the requests asked for', async () => {
    const response = await ask('pod=shop/web&max=2&headers=true');
    const [tap] = opened;
    assert.ok(tap !== undefined);
    assert.equal(tap.pod, 'shop/web');
    assert.deepEqual(tap.wish, { requestsMax: 2, headers: true });
    const say = (id: string, type: 'request' | 'response' | 'end'): void => tap.heard(id, { type });
    say('0-1', 'request');
    say('1-1', 'request');
    say('1-2', 'request');
    say('1-1', 'end');
    say('1-2', 'end');
    say('0-1', 'response');
    say('0-1', 'request');
    say('0-1', 'end');
    const lines = (await text(response)).trim().split('\n');
    assert.deepEqual(
      lines.map((line) => JSON.parse(line) as unknown),
      [
        { type: 'request', id: '0-1' },
        { type: 'request', id: '1-1' },
        { type: 'end', id: '1-1' },
        { type: 'response', id: '0-1' },
        { type: 'request', id: '0-1' },
        { type: 'end', id: '0-1' },
      ],
    );
    assert.equal(tap.closed, true);
  });

  test('says what is wrong with a query, and that there is no such pod', async () => {
    for (const query of ['', 'pod=web', 'pod=a/b/c', 'pod=a/b&max=0', 'pod=a/b&max=x', 'pod=a/b&max=10001']) {
      const response = await ask(query);
      assert.equal(response.statusCode, 400, query);
      response.resume();
    }
    const response = await ask('pod=shop/none');
    assert.equal(response.statusCode, 404);
    assert.match(await text(response), /no pod shop\/none/);
  });

  test('eight at once; one more is refused and counted, and a caller that goes makes room', async () => {
    const open = await Promise.all(Array.from({ length: 8 }, () => ask('pod=shop/web')));
    const refused = await ask('pod=shop/web');
    assert.equal(refused.statusCode, 503);
    refused.resume();
    assert.equal(taps.refused, 1);
    const [first] = open;
    first?.destroy();
    while (!opened.some(({ closed }) => closed)) await turn();
    const again = await ask('pod=shop/web');
    assert.equal(again.statusCode, 200);
    for (const response of [...open, again]) response.destroy();
  });

  test('events for a reader that does not read are left out and counted', async () => {
    const response = await ask('pod=shop/web&max=10000');
    response.pause();
    const [tap] = opened;
    const path = 'x'.repeat(2_000);
    for (let id = 0; id < 9_000; id++)
      tap?.heard(String(id), { type: 'request', path } as { type: 'request' });
    assert.ok(taps.dropped > 0);
    response.destroy();
  });
});
