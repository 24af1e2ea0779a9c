// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { seededRandom } from '#lib/core/clock.ts';
import { COMPRESSION_ERROR, NO_ERROR } from '../codes.ts';
import { LIST_BYTES_MAX, LIST_FIELDS_MAX, TABLE_BYTES_MAX } from '../limits.ts';
import { Decoder } from './decoder.ts';
import { BLOCK_OVERHEAD_BYTES, Encoder, FIELD_ENCODED_OVERHEAD_BYTES } from './encoder.ts';
import { defineField, type Field, staticFields } from './field.ts';
import { FLAG_TOO_LARGE, HeaderList } from './header-list.ts';
import { asIs, FLAG_NEVER_INDEXED, FLAG_PROXY_REQUEST, lowerCase, nameFromText, nameOf } from './names.ts';

type Pair = readonly [name: string, value: string];

const out = Buffer.alloc(2 * LIST_BYTES_MAX);

function pairsOf(list: HeaderList): Pair[] {
  const pseudo = [list.statusField, list.methodField, list.schemeField, list.authorityField, list.pathField];
  return [...pseudo, ...list.fields.slice(0, list.length)]
    .filter((field) => field !== null)
    .map((field) => [field.name, field.value]);
}

function decode(decoder: Decoder, hex: string): Pair[] {
  const block = Buffer.from(hex.replaceAll(' ', ''), 'hex');
  const list = new HeaderList();
  assert.equal(decoder.decode(block, 0, block.length, list), NO_ERROR);
  return pairsOf(list);
}

function refused(...blocks: string[]): void {
  const decoder = new Decoder();
  const list = new HeaderList();
  const results = blocks.map((hex) => {
    const block = Buffer.from(hex.replaceAll(' ', ''), 'hex');
    return decoder.decode(block, 0, block.length, list);
  });
  assert.equal(results.pop(), COMPRESSION_ERROR, blocks.join(', '));
  assert.ok(results.every((result) => result === NO_ERROR));
}

function encode(encoder: Encoder, pairs: readonly Pair[]): Buffer {
  let at = encoder.begin(out, 0);
  for (const [name, value] of pairs) at = encoder.writeField(out, at, defineField(name, value));
  return Buffer.from(out.subarray(0, at));
}

// ---- RFC 7541 appendix C

test('literals and indexed fields (C.2)', () => {
  const decoder = new Decoder();
  assert.deepEqual(decode(decoder, '400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572'), [
    ['custom-key', 'custom-header'],
  ]);
  assert.equal(decoder.tableBytes, 55);
  assert.deepEqual(decode(new Decoder(), '040c 2f73 616d 706c 652f 7061 7468'), [[':path', '/sample/path']]);
  assert.deepEqual(decode(new Decoder(), '1008 7061 7373 776f 7264 0673 6563 7265 74'), [
    ['password', 'secret'],
  ]);
  assert.deepEqual(decode(new Decoder(), '82'), [[':method', 'GET']]);
});

const requests: readonly (readonly [
  plain: string,
  huffman: string,
  bytes: number,
  pairs: readonly Pair[],
])[] = [
  [
    '8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
    '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
    57,
    [
      [':method', 'GET'],
      [':scheme', 'http'],
      [':authority', 'www.example.com'],
      [':path', '/'],
    ],
  ],
  [
    '8286 84be 5808 6e6f 2d63 6163 6865',
    '8286 84be 5886 a8eb 1064 9cbf',
    110,
    [
      [':method', 'GET'],
      [':scheme', 'http'],
      [':authority', 'www.example.com'],
      [':path', '/'],
      ['cache-control', 'no-cache'],
    ],
  ],
  [
    '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65',
    '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    164,
    [
      [':method', 'GET'],
      [':scheme', 'https'],
      [':authority', 'www.example.com'],
      [':path', '/index.html'],
      ['custom-key', 'custom-value'],
    ],
  ],
];

test('requests, plain (C.3) and Huffman coded (C.4)', () => {
  const plain = new Decoder();
  const huffman = new Decoder();
  for (const [plainHex, huffmanHex, bytes, pairs] of requests) {
    assert.deepEqual(decode(plain, plainHex), pairs);
    assert.deepEqual(decode(huffman, huffmanHex), pairs);
    assert.equal(plain.tableBytes, bytes);
    assert.equal(huffman.tableBytes, bytes);
  }
});

test('responses in a table of 256 bytes, with evictions (C.5, C.6)', () => {
  const location: Pair = ['location', 'https://www.example.com'];
  const first: Pair[] = [
    [':status', '302'],
    ['cache-control', 'private'],
    ['date', 'Mon, 21 Oct 2013 20:13:21 GMT'],
    location,
  ];
  const third: Pair[] = [
    [':status', '200'],
    ['cache-control', 'private'],
    ['date', 'Mon, 21 Oct 2013 20:13:22 GMT'],
    location,
    ['content-encoding', 'gzip'],
    ['set-cookie', 'foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1'],
  ];
  const blocks: readonly (readonly [
    plain: string,
    huffman: string,
    bytes: number,
    pairs: readonly Pair[],
  ])[] = [
    [
      '4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3',
      222,
      first,
    ],
    ['4803 3330 37c1 c0bf', '4883 640e ffc1 c0bf', 222, [[':status', '307'], ...first.slice(1)]],
    [
      '88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31',
      '88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07',
      215,
      third,
    ],
  ];
  const plain = new Decoder(256);
  const huffman = new Decoder(256);
  for (const [plainHex, huffmanHex, bytes, pairs] of blocks) {
    assert.deepEqual(decode(plain, plainHex), pairs);
    assert.deepEqual(decode(huffman, huffmanHex), pairs);
    assert.equal(plain.tableBytes, bytes);
    assert.equal(huffman.tableBytes, bytes);
  }
});

test('integers (C.1)', () => {
  // 1337 with a prefix of 5 bits: a size update.
  assert.deepEqual(decode(new Decoder(), '3f9a0a'), []);
  const decoder = new Decoder();
  const name = `0000 7f ${'61'.repeat(127)}`;
  assert.equal(decode(decoder, name.replace('0000', '0001 61').replace('7f', '7f00'))[0]?.[1].length, 127);
});

// ---- strictness

test('what is no header block', () => {
  // Index 0, and indexes past the tables.
  refused('80');
  refused('be');
  refused('ff00');
  refused('7e 0161');
  refused('4001 6101 62', 'bf');
  // Integers that are cut, too long, or too large.
  refused('ff');
  refused('ff80');
  refused('ff80808080808080808001');
  refused('ffffffffffffffffff7f');
  refused('ff8080808000');
  // Strings that are cut.
  refused('00');
  refused('0001');
  refused('00 0161');
  refused('00 0161 02 62');
  refused('00 0161 ff ff ff ff 07 62');
});

test('size updates: only at the beginning, and not beyond what was offered', () => {
  assert.deepEqual(decode(new Decoder(), '20 3fe11f 82'), [[':method', 'GET']]);
  refused('3fe21f');
  refused('82 20');
  refused('82 3fe11f');
  const decoder = new Decoder();
  decode(decoder, '4001 6101 62');
  assert.equal(decoder.tableBytes, 34);
  assert.deepEqual(decode(decoder, '20'), []);
  assert.equal(decoder.tableBytes, 0);
  // A table of size 0 takes nothing.
  assert.deepEqual(decode(decoder, '4001 6101 62'), [['a', 'b']]);
  assert.equal(decoder.tableBytes, 0);
});

test('an entry larger than the table empties it; an entry may be evicted that lends its name', () => {
  const decoder = new Decoder(64);
  decode(decoder, '4001 6101 62');
  // "a" again by the index of the entry that has to go.
  assert.deepEqual(decode(decoder, '7e 0163'), [['a', 'c']]);
  assert.equal(decoder.tableBytes, 34);
  decode(decoder, `40 0161 28 ${'62'.repeat(40)}`);
  assert.equal(decoder.tableBytes, 0);
});

test('Huffman code must be complete and padded with the beginning of EOS, less than a byte', () => {
  const value = (hex: string): string => `00 0161 ${(0x80 | (hex.length / 2)).toString(16)} ${hex}`;
  assert.deepEqual(decode(new Decoder(), value('1f')), [['a', 'a']]);
  refused(value('18'));
  refused(value('ff'));
  refused(value('1fff'));
  refused(value('1fffffff'));
  refused(value('3fffffffff'));
  refused(value('ffffffff'));
  // EOS itself, and the longest code cut off.
  refused(value('fffffffc'));
  refused(value('ffffff'));
});

test('the longest Huffman codes, at every bit position', () => {
  // LF has the code 3ffffffc of 30 bits; "a" the code 3 of 5 bits.
  for (let before = 0; before < 9; before++) {
    for (let between = 0; between < 9; between++) {
      let bits =
        '00011'.repeat(before) + `${'1'.repeat(28)}00` + '00011'.repeat(between) + `${'1'.repeat(28)}00`;
      while (bits.length % 8 !== 0) bits += '1';
      const bytes = Buffer.from(bits.match(/.{8}/g)?.map((byte) => Number.parseInt(byte, 2)) ?? []);
      const block = Buffer.concat([Buffer.from([0, 1, 0x61, 0x80 | bytes.length]), bytes]);
      assert.deepEqual(decode(new Decoder(), block.toString('hex')), [
        ['a', `${'a'.repeat(before)}\n${'a'.repeat(between)}\n`],
      ]);
    }
  }
});

// ---- limits

test('a list beyond its limits is decoded to the end but not kept', () => {
  const decoder = new Decoder();
  const list = new HeaderList();
  const field = Buffer.from('0001610162', 'hex');
  const atLimit = Buffer.concat(Array.from({ length: LIST_FIELDS_MAX }, () => field));
  assert.equal(decoder.decode(atLimit, 0, atLimit.length, list), NO_ERROR);
  assert.equal(list.flags & FLAG_TOO_LARGE, 0);
  assert.equal(list.length, LIST_FIELDS_MAX);
  const beyond = Buffer.concat([atLimit, Buffer.from('400163016482', 'hex')]);
  assert.equal(decoder.decode(beyond, 0, beyond.length, list), NO_ERROR);
  assert.equal(list.flags & FLAG_TOO_LARGE, FLAG_TOO_LARGE);
  assert.equal(list.length, LIST_FIELDS_MAX);
  assert.equal(list.methodField, null);
  // The entry is there nonetheless.
  assert.deepEqual(decode(decoder, 'be'), [['c', 'd']]);
});

test('a bomb of references to one large entry costs no more than its limit', () => {
  const decoder = new Decoder();
  const list = new HeaderList(1_000_000);
  const entry = Buffer.concat([
    Buffer.from('400161 7fa11e'.replace(' ', ''), 'hex'),
    Buffer.alloc(4000, 'x'),
  ]);
  const bomb = Buffer.concat([entry, Buffer.alloc(100_000, 0xbe)]);
  assert.equal(decoder.decode(bomb, 0, bomb.length, list), NO_ERROR);
  assert.equal(list.flags & FLAG_TOO_LARGE, FLAG_TOO_LARGE);
  assert.equal(list.length, Math.floor(LIST_BYTES_MAX / 4033));
  let kept = 0;
  for (let index = 0; index < list.length; index++) kept += (list.fields[index] as Field).bytes;
  assert.ok(kept <= LIST_BYTES_MAX);
  assert.ok(decoder.tableBytes <= TABLE_BYTES_MAX);
});

test('random blocks never throw, and stay within the limits', () => {
  const list = new HeaderList(20, 2000);
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 12 }),
    fc.constantFrom(
      ...['82', 'be', '400161 0162', '0001610162', '20', '3f31', '5f', '0f2b0377726b', '10856f'].map((hex) =>
        Buffer.from(hex.replace(' ', ''), 'hex'),
      ),
    ),
  );
  fc.assert(
    fc.property(fc.array(fc.array(piece, { maxLength: 30 }), { maxLength: 4 }), (blocks) => {
      const decoder = new Decoder(200);
      for (const block of blocks) {
        const bytes = Buffer.concat(block);
        const result = decoder.decode(bytes, 0, bytes.length, list);
        assert.ok(decoder.tableBytes <= 200);
        assert.ok(list.length <= 20);
        let size = 0;
        for (let index = 0; index < list.length; index++) size += (list.fields[index] as Field).bytes;
        assert.ok(size <= 2000);
        if (result !== NO_ERROR) return;
      }
    }),
    { numRuns: 3000 },
  );
});

// ---- the encoder

test('a field is indexed from its third block on, and costs one byte', () => {
  const encoder = new Encoder();
  const decoder = new Decoder();
  const pairs: Pair[] = [
    [':method', 'GET'],
    [':scheme', 'http'],
    [':authority', 'web:80'],
    [':path', '/a'],
    ['user-agent', 'test'],
    ['x-other', 'thing'],
  ];
  const bytes = [1, 2, 3, 4].map(() => {
    const block = encode(encoder, pairs);
    assert.deepEqual(decode(decoder, block.toString('hex')), pairs);
    return block.length;
  });
  assert.deepEqual(bytes.slice(2), [6, 6]);
  assert.equal(encoder.tableBytes, decoder.tableBytes);
});

test('what changes with each block enters no table', () => {
  const encoder = new Encoder();
  for (let index = 0; index < 1000; index++) encode(encoder, [['x-request-id', `id-${index}`]]);
  assert.equal(encoder.tableBytes, 0);
});

test('secrets are never indexed, wherever they came from', () => {
  const encoder = new Encoder();
  const secrets: Pair[] = [
    ['authorization', 'Bearer abc'],
    ['proxy-authorization', 'Basic abc'],
    ['set-cookie', 'session=0123456789012345678901234567890'],
    ['cookie', 'short=1'],
  ];
  for (let round = 0; round < 3; round++) {
    const block = encode(encoder, secrets);
    const list = new HeaderList();
    assert.equal(new Decoder().decode(block, 0, block.length, list), NO_ERROR);
    assert.equal(block[0], 0x1f);
    for (let index = 0; index < list.length; index++)
      assert.equal((list.fields[index] as Field).flags & FLAG_NEVER_INDEXED, FLAG_NEVER_INDEXED);
  }
  assert.equal(encoder.tableBytes, 0);
  // RFC 7541 6.2.3: a field that came so goes on so.
  const list = new HeaderList();
  const block = Buffer.from('1008 7061 7373 776f 7264 0673 6563 7265 74'.replaceAll(' ', ''), 'hex');
  new Decoder().decode(block, 0, block.length, list);
  for (let round = 0; round < 3; round++) {
    const end = encoder.writeList(out, encoder.begin(out, 0), list);
    assert.deepEqual(out.subarray(0, end), block);
  }
});

test("the peer's table size is followed, and told at the next block", () => {
  const encoder = new Encoder();
  const decoder = new Decoder();
  const pairs: Pair[] = [['x-other', 'thing']];
  const send = (): Buffer => {
    const block = encode(encoder, pairs);
    assert.deepEqual(decode(decoder, block.toString('hex')), pairs);
    assert.equal(encoder.tableBytes, decoder.tableBytes);
    return block;
  };
  send();
  send();
  assert.equal(encoder.tableBytes, 44);
  encoder.setTableBytesMax(0);
  encoder.setTableBytesMax(100);
  assert.equal(send().toString('hex').slice(0, 6), '203f45');
  send();
  encoder.setTableBytesMax(100);
  assert.equal(send().length, 1);
  encoder.setTableBytesMax(65_536);
  assert.equal(send().toString('hex').slice(0, 6), '3fe11f');
  encoder.setTableBytesMax(0);
  assert.equal(send()[0], 0x20);
  assert.equal(encoder.tableBytes, 0);
});

const anyName = fc.constantFrom(
  'accept',
  'x-a',
  'x-b',
  'x-request-id',
  'cookie',
  'authorization',
  'date',
  'vary',
);
const anyValue = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('', 'a', 'b', '*/*', 'x'.repeat(30), 'y'.repeat(64)) },
  fc.string({
    unit: fc.integer({ min: 33, max: 255 }).map((code) => String.fromCharCode(code)),
    maxLength: 300,
  }),
);
const anyStep = fc.oneof(
  { weight: 6, arbitrary: fc.array(fc.tuple(anyName, anyValue), { maxLength: 12 }) },
  fc.constantFrom(0, 33, 100, 300, 4096, 65_536),
);

test('what is encoded is decoded, through random tables and size updates; as fields and as bytes alike', () => {
  fc.assert(
    fc.property(fc.array(anyStep, { maxLength: 30 }), (steps) => {
      const byField = new Encoder();
      const byBytes = new Encoder();
      const decoder = new Decoder();
      const list = new HeaderList(1000);
      for (const step of steps) {
        if (typeof step === 'number') {
          byField.setTableBytesMax(step);
          byBytes.setTableBytesMax(step);
          continue;
        }
        const block = encode(byField, step);
        let at = byBytes.begin(out, 0);
        for (const [name, value] of step) {
          const bytes = Buffer.from(`--${value}--`, 'latin1');
          at = byBytes.writeBytes(out, at, nameFromText(name), bytes, 2, bytes.length - 2);
        }
        assert.deepEqual(out.subarray(0, at), block);
        const most = step.reduce(
          (sum, [name, value]) => sum + name.length + value.length + FIELD_ENCODED_OVERHEAD_BYTES,
          BLOCK_OVERHEAD_BYTES,
        );
        assert.ok(block.length <= most);
        assert.equal(decoder.decode(block, 0, block.length, list), NO_ERROR);
        assert.deepEqual(pairsOf(list), step);
        assert.equal(decoder.tableBytes, byField.tableBytes);
      }
    }),
    { numRuns: 1500 },
  );
});

test('fields that several encoders share, and their likes, are each found in its own table', () => {
  const random = seededRandom(3);
  const pool = Array.from({ length: 60 }, (_, index) => defineField(`x-${index % 5}`, `value ${index % 15}`));
  const ends = [120, 300, 4096].map((bytes) => {
    const encoder = new Encoder();
    encoder.setTableBytesMax(bytes);
    return { encoder, decoder: new Decoder(), blocks: 0, bytes: 0 };
  });
  for (let step = 0; step < 5_000; step++) {
    const end = ends[Math.floor(random() * ends.length)];
    assert.ok(end !== undefined);
    // Now from the beginning of the pool, now from its end.
    const far = (step >> 8) & 1 ? 0 : 40;
    const fields = Array.from({ length: 6 }, () => pool[far + Math.floor(random() * 20)] as Field);
    let at = end.encoder.begin(out, 0);
    for (const field of fields) at = end.encoder.writeField(out, at, field);
    assert.deepEqual(
      decode(end.decoder, out.toString('hex', 0, at)),
      fields.map(({ name, value }) => [name, value]),
    );
    end.blocks++;
    end.bytes += at;
  }
  const [, , large] = ends;
  assert.ok(large !== undefined && large.bytes / large.blocks < 8, 'found, as a rule');
});

test('a field that was decoded is encoded again from the same object', () => {
  const inner = new Decoder();
  const encoder = new Encoder();
  const outer = new Decoder();
  const list = new HeaderList();
  for (let round = 0; round < 5; round++) {
    for (const [plain, , , pairs] of requests) {
      const block = Buffer.from(plain.replaceAll(' ', ''), 'hex');
      // The blocks of C.3 are a sequence; each round begins anew.
      if (pairs === requests[0]?.[3]) inner.decode(Buffer.from('203fe11f', 'hex'), 0, 4, list);
      assert.equal(inner.decode(block, 0, block.length, list), NO_ERROR);
      const end = encoder.writeList(out, encoder.begin(out, 0), list);
      assert.deepEqual(decode(outer, out.toString('hex', 0, end)), pairs);
    }
  }
});

// ---- names and lists

test('names are found by their bytes, in lower case if they come from HTTP/1', () => {
  const text = Buffer.from('--X-Request-ID: 1', 'latin1');
  assert.equal(nameOf(text, 2, 14, lowerCase).text, 'x-request-id');
  assert.equal(nameOf(text, 2, 14, lowerCase), nameFromText('x-request-id'));
  assert.notEqual(nameOf(text, 2, 14, asIs).flags, 0);
  // Same length, same sampled characters.
  const names = ['x-aaaaaaaaaaaa', 'x-abaaaaaaaaaa', 'x-aabaaaaaaaaa'];
  for (const name of [...names, ...names]) assert.equal(nameFromText(name).text, name);
});

test('the static table has its 61 entries where they belong', () => {
  assert.equal(staticFields.length, 62);
  assert.equal(staticFields[61]?.name, 'www-authenticate');
  for (let index = 1; index <= 61; index++) {
    const field = staticFields[index] as Field;
    assert.deepEqual(decode(new Decoder(), (0x80 | index).toString(16)), [[field.name, field.value]]);
  }
});

test('a list loses the fields that only a proxy may say', () => {
  const list = new HeaderList();
  for (const name of ['a', 'l5d-client-id', 'b']) list.add(defineField(name, 'x'));
  list.strip();
  assert.deepEqual(pairsOf(list).flat(), ['a', 'x', 'b', 'x']);
  assert.equal(list.flags & FLAG_PROXY_REQUEST, 0);
  list.clear();
  for (const name of [':status', 'l5d-proxy-error', 'b']) list.add(defineField(name, '200'));
  list.strip();
  assert.deepEqual(pairsOf(list).flat(), [':status', '200', 'b', '200']);
  const copy = new HeaderList();
  copy.copyFrom(list);
  list.forget();
  assert.deepEqual(pairsOf(copy).flat(), [':status', '200', 'b', '200']);
  assert.equal(copy.get('b')?.value, '200');
  assert.equal(copy.status, 200);
});
