// SPDX-License-Identifier: Apache-2.0
// What is fed to those who read a connection's first bytes: TLS hello, transport header, protocol. They are asked
// again with every read, so a verdict must stay what it was when more bytes come.

import assert from 'node:assert/strict';
import { parseClientHello } from '../../agent/proxy/detect/client-hello.ts';
import { detectProtocol, judgeProtocol } from '../../agent/proxy/detect/protocol.ts';
import { Head } from '../../agent/proxy/http1/head.ts';
import { decodeTransportHeader, encodeTransportHeader } from '../../agent/proxy/tls/transport-header.ts';

export function fuzzClientHello(bytes: Buffer, random: () => number): void {
  const whole = parseClientHello(bytes);
  const cut = Math.floor(random() * bytes.length);
  const early = parseClientHello(bytes, cut);
  assert.deepEqual(parseClientHello(bytes.subarray(0, cut)), early, 'bytes behind the end count');
  if (early.kind !== 'partial') assert.deepEqual(whole, early, `after ${cut} bytes it was known already`);
  if (whole.kind !== 'hello' || whole.serverName === undefined) return;
  assert.match(whole.serverName, /^[!-@[-~]{1,255}$/, 'a name with a byte that no name has');
}

export function fuzzTransportHeader(bytes: Buffer, random: () => number): void {
  const whole = decodeTransportHeader(bytes);
  const cut = Math.floor(random() * bytes.length);
  const early = decodeTransportHeader(bytes, cut);
  assert.deepEqual(decodeTransportHeader(bytes.subarray(0, cut)), early, 'bytes behind the end count');
  if (early.kind !== 'partial') assert.deepEqual(whole, early, `after ${cut} bytes it was known already`);
  if (whole.kind !== 'header') return;
  assert.ok(whole.bytes <= bytes.length);
  const { port, protocol } = whole.header;
  const again = encodeTransportHeader(port, protocol);
  assert.deepEqual(decodeTransportHeader(again), {
    kind: 'header',
    header: { port, name: '', protocol },
    bytes: again.length,
  });
}

const CR = 13;
const head = new Head();

export function fuzzDetection(bytes: Buffer, random: () => number): void {
  const whole = judgeProtocol(bytes);
  const cut = 1 + Math.floor(random() * bytes.length);
  const read = bytes.subarray(0, cut);
  const early = judgeProtocol(read);
  // Not waited for, so that other protocols lose no time: the rest of empty lines, of a method that nobody registered,
  // and of a line that ends with its version so far.
  const hasty =
    bytes[0] === CR ||
    (early === 'opaque' && whole === 'http1') ||
    /HTTP\/1\.[01]$/.test(read.toString('latin1'));
  if (early !== 'partial' && !hasty) assert.equal(whole, early, `after ${cut} bytes it was ${early}`);
  const verdict = detectProtocol(bytes);
  assert.equal(verdict, whole === 'partial' ? 'opaque' : whole);
  if (head.parseRequest(bytes, 0, bytes.length, true) > 0)
    assert.equal(verdict, 'http1', 'a request that is not seen as one');
}
