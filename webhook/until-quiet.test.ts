// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { untilQuiet } from './until-quiet.ts';

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function start(looksMax = 100) {
  const clock = new VirtualClock();
  let [requests, over] = [0, false];
  void untilQuiet({ clock, asked: () => requests, quietMs: 1000, looksMax }).then(() => (over = true));
  return {
    ask: () => void requests++,
    pass: async (ms: number): Promise<boolean> => {
      for (let left = ms; left > 0; left -= 250) {
        clock.advance(250);
        await settled();
      }
      return over;
    },
    pause: async (ms: number): Promise<boolean> => {
      clock.advance(ms);
      await settled();
      return over;
    },
  };
}

test('it is over when nobody has asked for so long', async () => {
  const { ask, pass } = start();
  assert.equal(await pass(750), false);
  ask();
  assert.equal(await pass(1000), false);
  assert.equal(await pass(250), true);
});

test('a pause of the process is one look: in it nobody could be heard', async () => {
  const { pause, pass } = start();
  assert.equal(await pause(5000), false);
  assert.equal(await pass(750), true);
});

test('somebody who asks without end does not hold it up for ever', async () => {
  const { ask, pass } = start(10);
  for (let count = 0; count < 9; count++) {
    ask();
    assert.equal(await pass(250), false);
  }
  ask();
  assert.equal(await pass(250), true);
});
