// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import {
  decodePacket,
  decodeStats,
  encodeHeader,
  keyBytes,
  reasons,
  replyTypes,
  requestTypes,
} from './wire.ts';

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

describe('messages of the keeper', () => {
  it('come back as they were made, and no cut one does', () => {
    const bytes = Buffer.concat([encodeHeader(2, 3, 0xffff_fffe), Buffer.from('keymeta')]);
    assert.deepEqual(decodePacket(bytes, bytes.length), {
      type: 2,
      number: 0xffff_fffe,
      key: Buffer.from('key'),
      rest: Buffer.from('meta'),
    });
    for (let length = 0; length < 11; length++) assert.equal(decodePacket(bytes, length), undefined);
    assert.deepEqual(decodePacket(bytes, 11)?.rest, Buffer.alloc(0));
  });

  it('are copied out of the buffer that the next one overwrites', () => {
    const bytes = Buffer.concat([encodeHeader(2, 1, 0), Buffer.from('ab')]);
    const packet = decodePacket(bytes, bytes.length);
    bytes.fill(0);
    assert.deepEqual([packet?.key.toString(), packet?.rest.toString()], ['a', 'b']);
  });

  it('statistics of another version may be shorter or longer', () => {
    const fields = Buffer.alloc(96);
    for (let index = 0; index < 12; index++) fields.writeBigUInt64LE(BigInt(index + 1), 8 * index);
    assert.equal(decodeStats(fields).uptimeMs, 10);
    assert.equal(decodeStats(fields.subarray(0, 16)).entriesMax, 2);
    assert.equal(decodeStats(fields.subarray(0, 16)).holderAgeMs, undefined);
    fields.writeBigUInt64LE(0xffff_ffff_ffff_ffffn, 24);
    assert.equal(decodeStats(fields).holderAgeMs, undefined);
  });

  it('keys are measured in bytes', () => {
    assert.equal(keyBytes('k'.repeat(255), 1).length, 255);
    assert.throws(() => keyBytes('\u00e4'.repeat(128), 1), /256 bytes/);
  });

  it('have the numbers that the documentation and the C program give them', () => {
    const document = read('docs/reference/keeper-protocol.md');
    for (const [name, type] of [...Object.entries(requestTypes), ...Object.entries(replyTypes)]) {
      assert.match(document, new RegExp(`^\\| ${type} \\| ${name}\\b`, 'im'));
    }
    const names = /enum reason \{([^}]*)\}/.exec(read('keeper/keeper.c'))?.[1]?.split(',') ?? [];
    for (const [name, number] of Object.entries(reasons)) {
      assert.equal(names[number]?.trim().replaceAll('_', '').toLowerCase(), name.toLowerCase());
      assert.match(document, new RegExp(`^\\| ${number} \\| [a-z]`, 'm'));
    }
  });
});
