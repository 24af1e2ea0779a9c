// SPDX-License-Identifier: Apache-2.0
// What header blocks cost: nanoseconds per block of a usual request and response, between HTTP/1 and HTTP/2 and
// between two HTTP/2 connections. Run it by hand: node bench/micro/hpack.ts. It proves nothing about whole requests.

import { Head } from '../../agent/proxy/http1/head.ts';
import { Decoder } from '#lib/http2/hpack/decoder.ts';
import { Encoder } from '#lib/http2/hpack/encoder.ts';
import { HeaderList } from '#lib/http2/hpack/header-list.ts';
import { decodeHuffman } from '#lib/http2/hpack/huffman.ts';
import { validateRequest, validateResponse } from '#lib/http2/message.ts';
import {
  requestText,
  responseText,
  writeRequestHead,
  writeResponseHead,
} from '../../agent/proxy/http2/translate.ts';

/** The quickest counts: what else runs on the machine only makes it slower. */
const ROUNDS = 11;
const BLOCKS = 200_000;

const requestHead = (id: string): Buffer =>
  Buffer.from(
    `GET /api/items/42?page=1 HTTP/1.1\r\nHost: catalog.shop.svc.cluster.local:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) shop/1.2\r\n` +
      'Accept: application/json, text/plain;q=0.9\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.5\r\n' +
      `X-Request-Id: ${id}\r\nX-Forwarded-For: 10.1.2.3\r\nConnection: keep-alive\r\n\r\n`,
    'latin1',
  );
const responseHead = (length: number): Buffer =>
  Buffer.from(
    `HTTP/1.1 200 OK\r\nServer: nginx/1.26\r\nDate: Sat, 21 Nov 2026 13:38:27 GMT\r\nContent-Type: application/json; charset=utf-8\r\n` +
      `Content-Length: ${length}\r\nCache-Control: no-cache, no-store\r\nVary: Accept-Encoding\r\nETag: "5f-17a"\r\nX-Powered-By: Express\r\n\r\n`,
    'latin1',
  );

function measure(name: string, block: (index: number) => void): void {
  const results: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const started = process.threadCpuUsage().user;
    for (let index = 0; index < BLOCKS; index++) block(index);
    results.push(((process.threadCpuUsage().user - started) * 1000) / BLOCKS);
  }
  console.log(
    `${name.padEnd(58)} ${Math.min(...results)
      .toFixed(0)
      .padStart(6)} ns`,
  );
}

/** The same head each time, and one of which a field (request id, length) differs each time. */
function suite(what: string, heads: readonly Buffer[], isRequest: boolean): void {
  const head = new Head();
  const out = Buffer.alloc(4096);
  const encoder = new Encoder();
  const decoder = new Decoder();
  const list = new HeaderList();
  const parse = (buffer: Buffer): number =>
    isRequest
      ? head.parseRequest(buffer, 0, buffer.length, false)
      : head.parseResponse(buffer, 0, buffer.length, false);
  const encode = (buffer: Buffer): number =>
    isRequest
      ? writeRequestHead(encoder, out, 0, head, buffer, null)
      : writeResponseHead(encoder, out, 0, head, buffer);
  const at = (index: number): Buffer => heads[index % heads.length] as Buffer;

  measure(`${what}: parse HTTP/1`, (index) => parse(at(index)));
  measure(`${what}: parse HTTP/1, encode`, (index) => {
    parse(at(index));
    encode(at(index));
  });

  // Blocks as they stand once the tables are settled.
  const settledEncoder = new Encoder();
  const blocks: Buffer[] = [];
  const settle = (keeps: boolean): void => {
    for (const buffer of heads) {
      parse(buffer);
      const end = isRequest
        ? writeRequestHead(settledEncoder, out, 0, head, buffer, null)
        : writeResponseHead(settledEncoder, out, 0, head, buffer);
      decoder.decode(out, 0, end, list);
      if (keeps) blocks.push(Buffer.from(out.subarray(0, end)));
    }
  };
  settle(false);
  settle(false);
  settle(true);
  const decode = (index: number): void => {
    const block = blocks[index % blocks.length] as Buffer;
    decoder.decode(block, 0, block.length, list);
  };
  measure(`${what}: decode (${blocks[0]?.length} bytes)`, decode);
  measure(`${what}: decode, validate`, (index) => {
    decode(index);
    if ((isRequest ? validateRequest(list) : validateResponse(list)) !== 0) throw new Error('not valid');
  });
  measure(`${what}: decode, validate, HTTP/1 text`, (index) => {
    decode(index);
    if ((isRequest ? validateRequest(list) : validateResponse(list)) !== 0) throw new Error('not valid');
    const text = isRequest ? requestText(list, false) : responseText(list, 1, false);
    out.write(text, 0, text.length, 'latin1');
  });
  const onward = new Encoder();
  measure(`${what}: decode, validate, encode`, (index) => {
    decode(index);
    if ((isRequest ? validateRequest(list) : validateResponse(list)) !== 0) throw new Error('not valid');
    onward.writeList(out, onward.begin(out, 0), list);
  });
}

const ids = Array.from({ length: 1000 }, (_, index) => `4bf92f3577b34da6a3ce929d0e0e${String(index + 1000)}`);
suite('request, same', [requestHead(ids[0] as string)], true);
suite('request, another id each', ids.map(requestHead), true);
suite('response, same', [responseHead(1234)], false);
suite(
  'response, another length each',
  ids.map((_, index) => responseHead(index * 7919)),
  false,
);

const coded = Buffer.from('f1e3c2e5f23a6ba0ab90f4ff'.repeat(8), 'hex');
const decoded = Buffer.alloc(1024);
measure('Huffman, decode 96 bytes', () => decodeHuffman(coded, 0, coded.length, decoded));
