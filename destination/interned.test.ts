// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Interned } from './interned.ts';
import { sharedMessage } from './shared-message.ts';

const boxes = () => new Interned((text) => ({ text }));

it('what is made from the same text is the same thing', () => {
  const made = boxes();
  assert.equal(made.of('a'), made.of('a'));
  assert.notEqual(made.of('a'), made.of('b'));
  assert.deepEqual(made.of('b'), { text: 'b' });
});

it('long texts are not kept, and a full cache begins anew', () => {
  const made = boxes();
  assert.equal(made.of('x'.repeat(1024)), made.of('x'.repeat(1024)));
  assert.notEqual(made.of('x'.repeat(1025)), made.of('x'.repeat(1025)));
  const full = boxes();
  const first = full.of('0');
  for (let index = 1; index < 8192; index++) full.of(String(index));
  assert.equal(full.of('0'), first);
  full.of('one more');
  assert.notEqual(full.of('0'), first);
});

it('what cannot be made throws each time', () => {
  const made = new Interned((text) => {
    throw new Error(text);
  });
  for (let times = 0; times < 2; times++) assert.throws(() => made.of('no'), /no/);
});

it('the same bytes are one message, up to 4 KiB', () => {
  const bytes = (count: number) => new Uint8Array(count).fill(7);
  assert.equal(sharedMessage(bytes(4096)), sharedMessage(bytes(4096)));
  assert.notEqual(sharedMessage(bytes(4097)), sharedMessage(bytes(4097)));
  assert.ok(sharedMessage(bytes(4097)).equals(sharedMessage(bytes(4097))));
});
