// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { decodeReply, decodeRequest, encodeReply, encodeRequest, FrameReader } from './frame.ts';

const request = {
  env: new Map([
    ['CNI_COMMAND', 'ADD'],
    ['CNI_ARGS', 'a=b;c=d'],
    ['CNI_PATH', ''],
  ]),
  stdin: '{"name":"ü"}\n',
};

describe('frames between shim and agent', () => {
  it('come through whole, cut at every byte', () => {
    const frame = encodeRequest(request);
    for (let cut = 1; cut < frame.length; cut++) {
      const reader = new FrameReader(4096);
      assert.deepEqual(reader.push(frame.subarray(0, cut)), { state: 'more' });
      const step = reader.push(frame.subarray(cut));
      assert.ok(step.state === 'done');
      assert.deepEqual(decodeRequest(step.payload), request);
    }
    const bytewise = new FrameReader(4096);
    const steps = [...encodeReply({ code: 1, stdout: 'x' })].map((byte) => bytewise.push(Buffer.of(byte)));
    const last = steps.at(-1);
    assert.ok(last?.state === 'done');
    assert.deepEqual(decodeReply(last.payload), { code: 1, stdout: 'x' });
  });

  it('takes a frame at the limit and refuses one byte more, or trailing bytes', () => {
    const frame = encodeReply({ code: 0, stdout: 'x'.repeat(96) });
    assert.equal(new FrameReader(100).push(frame).state, 'done');
    assert.equal(new FrameReader(99).push(frame).state, 'bad');
    assert.equal(new FrameReader(1000).push(Buffer.concat([frame, Buffer.of(0)])).state, 'bad');
  });

  it('refuses garbage', () => {
    const bad = [
      '',
      'NMCNI1',
      'NMCNI2\0\0',
      'NMCNI1\0',
      'NMCNI1\0A=1',
      'NMCNI1\0A=1\0',
      'NMCNI1\0A\0\0',
      'NMCNI1\0=1\0\0',
    ];
    for (const text of bad) {
      assert.throws(
        () => decodeRequest(Buffer.from(text)),
        { code: 'MESH_CNI_INVALID' },
        JSON.stringify(text),
      );
    }
    assert.throws(() => decodeReply(Buffer.from('abc')), { code: 'MESH_CNI_INVALID' });
    const long = Buffer.from(`NMCNI1\0A=${'x'.repeat(70_000)}\0\0`);
    assert.throws(() => decodeRequest(long), { code: 'MESH_CNI_INVALID' });
  });
});
