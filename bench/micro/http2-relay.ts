// SPDX-License-Identifier: Apache-2.0
// What the engine's own code costs for a request that is HTTP/2 on both sides: nanoseconds of the thread's time without any
// socket or system call. Run it by hand: node bench/micro/http2-relay.ts [streams in a turn]. It proves nothing about
// whole requests; it is for finding out what a change of the exchange or the codec does.

import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { systemClock } from '#lib/core/clock.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import type { ByteSource } from '../../agent/proxy/exchange/byte-source.ts';
import { createHttpServer } from '../../agent/proxy/exchange/server.ts';
import type { Connected, HttpEndpoint, HttpRoute, HttpTarget } from '../../agent/proxy/exchange/types.ts';
import { FAILURE_NONE } from '../../agent/proxy/failure.ts';
import { FLAG_END_HEADERS, FLAG_END_STREAM, FRAME_HEADER_BYTES, FRAME_HEADERS } from '#lib/http2/codes.ts';
import {
  writeDataHeader,
  writeFrameHeader,
  writePreface,
  writeSettings,
  writeWindowUpdate,
} from '#lib/http2/frame-writer.ts';
import { Encoder } from '#lib/http2/hpack/encoder.ts';
import { defineField } from '#lib/http2/hpack/field.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { proxyFamilies } from '../../agent/proxy/metrics/families.ts';
import { EndpointHttpMetrics } from '../../agent/proxy/metrics/http-metrics.ts';
import {
  outboundBackendFamilies,
  outboundRouteFamilies,
  StreamSeries,
} from '../../agent/proxy/metrics/route-metrics.ts';

/** The quickest counts: what else runs on the machine only makes it slower. */
const ROUNDS = 15;
const REQUESTS = 40_000;
/** Enough for all answers. */
const WINDOW_BYTES = 1_000_000_000;
const STREAMS = Number(process.argv[2] ?? 16);

/** A socket that takes everything at once. */
class StubSocket extends EventEmitter {
  readonly writableLength = 0;
  readonly destroyed = false;
  bytes = 0;

  write(chunk: Uint8Array): boolean {
    this.bytes += chunk.length;
    return true;
  }

  pause(): void {}
  resume(): void {}
}

function stubSource(): ByteSource & { readonly stub: StubSocket } {
  const stub = new StubSocket();
  return {
    stub,
    socket: stub as unknown as Socket,
    encrypted: false,
    onBytes: null,
    budget: null,
    reset: () => undefined,
  };
}

const listOf = (fields: readonly (readonly [string, string])[]): HeaderList => {
  const list = new HeaderList();
  for (const [name, value] of fields) list.add(defineField(name, value));
  return list;
};
/** As h2load and nghttpd send them. */
const request = listOf([
  [':method', 'GET'],
  [':scheme', 'http'],
  [':authority', '10.1.2.3:8080'],
  [':path', '/'],
  ['user-agent', 'h2load nghttp2/1.52.0'],
]);
const response = listOf([
  [':status', '200'],
  ['server', 'nghttpd nghttp2/1.52.0'],
  ['cache-control', 'max-age=3600'],
  ['date', 'Sat, 21 Nov 2026 13:38:27 GMT'],
  ['content-length', '6'],
  ['last-modified', 'Sat, 21 Nov 2026 10:00:00 GMT'],
  ['content-type', 'text/plain'],
]);
const body = Buffer.from('hello\n');

/** One end of a connection that sends the same message on stream after stream. */
class Sender {
  readonly #encoder = new Encoder();
  readonly #out = Buffer.alloc(65_536);
  readonly #list: HeaderList;
  readonly #body: Buffer | null;
  #stream = 1;

  constructor(list: HeaderList, content: Buffer | null) {
    this.#list = list;
    this.#body = content;
  }

  messages(count: number): { buffer: Buffer; length: number } {
    let at = 0;
    for (let index = 0; index < count; index++) {
      const end = this.#encoder.writeList(this.#out, at + FRAME_HEADER_BYTES, this.#list);
      const flags = FLAG_END_HEADERS | (this.#body === null ? FLAG_END_STREAM : 0);
      writeFrameHeader(this.#out, at, end - at - FRAME_HEADER_BYTES, FRAME_HEADERS, flags, this.#stream);
      at = end;
      if (this.#body !== null) {
        at = writeDataHeader(this.#out, at, this.#body.length, this.#stream, true);
        at += this.#body.copy(this.#out, at);
      }
      this.#stream += 2;
    }
    return { buffer: this.#out, length: at };
  }
}

const store = new MetricStore({
  id: 'w',
  families: proxyFamilies,
  send: () => undefined,
  clock: systemClock,
});
const place = { store, owner: 'pod', podLabels: 'pod="web"' };
const route: HttpRoute = {
  metrics: new StreamSeries(place, 'http', outboundRouteFamilies('http'), 'route_name="http"'),
  backend: new StreamSeries(place, 'http', outboundBackendFamilies('http'), 'backend_name="web"'),
};
const upstream = stubSource();
const endpoint: HttpEndpoint = {
  name: 'application',
  metrics: new EndpointHttpMetrics(store, 'direction="outbound"', 'pod'),
  slot: null,
  multiplexed: false,
  passage: null,
  connect: (_http2: boolean, done: Connected) => setImmediate(done, FAILURE_NONE, upstream),
};
const target: HttpTarget = {
  authority: 'web:80',
  endpoints: [endpoint],
  failfast: false,
  route,
  whenAvailable: () => undefined,
};
const client = stubSource();
createHttpServer().serve({
  source: client,
  first: null,
  http2: true,
  target,
  gate: null,
  onClosed: () => undefined,
});

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const give = (source: ByteSource, { buffer, length }: { buffer: Buffer; length: number }): void =>
  source.onBytes?.(buffer, length);

const greeting = Buffer.alloc(256);
const settings = writeSettings(greeting, writePreface(greeting, 0), []);
give(client, { buffer: greeting, length: writeWindowUpdate(greeting, settings, 0, WINDOW_BYTES) });
const requests = new Sender(request, null);
const responses = new Sender(response, body);
give(client, requests.messages(1));
while (endpoint.slot?.connections.length !== 1) await turn();
give(upstream, { buffer: greeting, length: writeSettings(greeting, 0, []) });
give(upstream, responses.messages(1));
await turn();

const results: number[] = [];
for (let round = 0; round < ROUNDS; round++) {
  let spent = 0;
  for (let sent = 0; sent < REQUESTS; sent += STREAMS) {
    const asked = requests.messages(STREAMS);
    let from = process.threadCpuUsage().user;
    give(client, asked);
    spent += process.threadCpuUsage().user - from;
    await turn();
    const answered = responses.messages(STREAMS);
    from = process.threadCpuUsage().user;
    give(upstream, answered);
    spent += process.threadCpuUsage().user - from;
    await turn();
  }
  results.push((spent * 1000) / REQUESTS);
}
console.log(
  `${STREAMS} streams in a turn: ${Math.min(...results).toFixed(0)} ns, median ${results.sort((a, b) => a - b)[ROUNDS >> 1]?.toFixed(0)} ns`,
);
