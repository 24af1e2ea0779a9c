// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { seededRandom } from '#lib/core/clock.ts';
import { newSpanId, readTrace, withSpan } from './trace-context.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const PARENT = 'b7ad6b7169203331';
const SPAN = '00f067aa0ba902b7';
const W3C = `00-${TRACE}-${PARENT}-01`;
const BINARY = Buffer.from(`0000${TRACE}01${PARENT}0201`, 'hex').toString('base64');

const read = (fields: Readonly<Record<string, string>>) => readTrace((name) => fields[name] ?? '');

test('w3c: a traceparent of version 00 is read, with its sampled flag', () => {
  const expected = { traceId: TRACE, parentId: PARENT, field: 'traceparent' };
  assert.deepEqual(read({ traceparent: W3C }), { ...expected, sampled: true });
  assert.deepEqual(read({ traceparent: `00-${TRACE}-${PARENT}-00` }), { ...expected, sampled: false });
  assert.equal(read({ traceparent: `00-${TRACE}-${PARENT}-03` })?.sampled, true, 'other flags do not matter');
  assert.equal(read({ traceparent: `00-${TRACE}-${PARENT}-02` })?.sampled, false);
});

test('w3c: other versions, bad digits, lengths and zero ids are no context', () => {
  for (const traceparent of [
    '',
    `01-${TRACE}-${PARENT}-01`,
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `00-${TRACE.slice(1)}g-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-0x`,
    `00-${TRACE}-${PARENT}-1`,
    `00-${TRACE.slice(1)}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-01-more`,
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    ` ${W3C}`,
  ]) {
    assert.equal(read({ traceparent }), undefined, traceparent);
  }
});

test('b3: trace and span of several fields are read; sampled only by 1; short trace ids are padded', () => {
  const fields = { 'x-b3-traceid': TRACE, 'x-b3-spanid': PARENT };
  const expected = { traceId: TRACE, parentId: PARENT, field: 'x-b3-spanid', sampled: false };
  assert.deepEqual(read(fields), expected);
  assert.deepEqual(read({ ...fields, 'x-b3-sampled': '1' }), { ...expected, sampled: true });
  for (const sampled of ['0', 'true', 'd'])
    assert.equal(read({ ...fields, 'x-b3-sampled': sampled })?.sampled, false);
  assert.equal(
    read({ ...fields, 'x-b3-traceid': TRACE.slice(16) })?.traceId,
    `${'0'.repeat(16)}${TRACE.slice(16)}`,
  );
  for (const wrong of [
    { 'x-b3-traceid': TRACE },
    { 'x-b3-spanid': PARENT },
    { 'x-b3-traceid': TRACE.slice(3), 'x-b3-spanid': PARENT },
    { 'x-b3-traceid': TRACE, 'x-b3-spanid': 'xyz' },
    { 'x-b3-traceid': '0'.repeat(32), 'x-b3-spanid': PARENT },
    { b3: `${TRACE}-${PARENT}-1` },
  ]) {
    assert.equal(read(wrong as Record<string, string>), undefined, JSON.stringify(wrong));
  }
});

test('grpc-trace-bin: read with and without padding; anything else in it is no context', () => {
  const expected = { traceId: TRACE, parentId: PARENT, field: 'grpc-trace-bin', sampled: true };
  assert.deepEqual(read({ 'grpc-trace-bin': BINARY }), expected);
  assert.deepEqual(read({ 'grpc-trace-bin': BINARY.replace('=', '') }), expected);
  for (const hex of [
    `0100${TRACE}01${PARENT}0201`,
    `0001${TRACE}01${PARENT}0201`,
    `0000${TRACE}01${PARENT}0301`,
  ]) {
    assert.equal(read({ 'grpc-trace-bin': Buffer.from(hex, 'hex').toString('base64') }), undefined, hex);
  }
  assert.equal(read({ 'grpc-trace-bin': 'AAAA' }), undefined);
});

test('w3c goes before grpc-trace-bin, that before b3; a malformed one counts as absent', () => {
  const b3 = { 'x-b3-traceid': TRACE, 'x-b3-spanid': SPAN };
  const binary = { 'grpc-trace-bin': BINARY };
  assert.equal(read({ traceparent: W3C, ...binary, ...b3 })?.field, 'traceparent');
  assert.equal(read({ traceparent: 'nonsense', ...binary, ...b3 })?.field, 'grpc-trace-bin');
  assert.equal(read({ traceparent: 'nonsense', 'grpc-trace-bin': 'x', ...b3 })?.field, 'x-b3-spanid');
});

test('writing puts another span into the same field and changes nothing else', () => {
  const fields = [
    { traceparent: W3C },
    { 'grpc-trace-bin': BINARY },
    { 'grpc-trace-bin': BINARY.replace('=', '') },
    { 'x-b3-spanid': PARENT, 'x-b3-traceid': TRACE, 'x-b3-sampled': '1' },
  ] as Readonly<Record<string, string>>[];
  for (const before of fields) {
    const context = read(before);
    assert.ok(context !== undefined);
    const text = before[context.field] ?? '';
    const written = withSpan(context, text, SPAN);
    assert.equal(written.length, text.length);
    assert.deepEqual(read({ ...before, [context.field]: written }), { ...context, parentId: SPAN });
  }
  assert.equal(withSpan(read({ traceparent: W3C }) as never, W3C, SPAN), `00-${TRACE}-${SPAN}-01`);
});

test('span ids are 16 digits and never zero', () => {
  const random = seededRandom(1);
  for (let n = 0; n < 100; n++) assert.match(newSpanId(random), /^[0-9a-f]{16}$/);
  assert.equal(
    newSpanId(() => 0),
    '0000000000000001',
  );
});
