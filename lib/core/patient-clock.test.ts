// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PatientClock } from './patient-clock.ts';

describe('the patient clock', () => {
  it('of a pause hardly anything counts, in timers and in what it says', () => {
    let realMs = 1000;
    const clock = new PatientClock(() => realMs);
    let rang = 0;
    clock.after(300, () => rang++);
    realMs += 60_000;
    assert.ok(clock.nowMs() < 20);
    clock.tick();
    assert.ok(clock.nowMs() < 20);
    assert.equal(rang, 0);
    for (let passed = 0; passed < 400; passed += 5) {
      realMs += 5;
      clock.tick();
    }
    assert.equal(rang, 1);
    assert.ok(Math.abs(clock.nowMs() - 410) < 1, String(clock.nowMs()));
  });
  it('follows the real time by itself', async () => {
    const clock = new PatientClock();
    const beganMs = performance.now();
    await new Promise<void>((resolve) => {
      const keepsAlive = setInterval(() => undefined, 1000);
      clock.after(100, () => {
        clearInterval(keepsAlive);
        resolve();
      });
    });
    assert.ok(performance.now() - beganMs >= 99);
    assert.ok(clock.nowMs() >= 100);
  });
  it('timers that are due run in their order, unless one takes another back; a jump lets them fall due', () => {
    const clock = new PatientClock();
    const said: string[] = [];
    clock.after(2000, () => said.push('second'));
    const third = clock.after(3000, () => said.push('third'));
    clock.after(1000, () => {
      said.push('first');
      third.cancel();
      clock.after(0, () => said.push('later'));
    });
    clock.advance(5000);
    assert.deepEqual(said, ['first', 'second']);
    clock.tick();
    assert.deepEqual(said, ['first', 'second', 'later']);
  });
});
