// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { type FileTexts, type FileWatch, readText, readTexts, watchFiles } from './watch-files.ts';

describe('watched files', () => {
  let directory = '';
  let watch: FileWatch;
  let told: FileTexts<'a' | 'b'>[] = [];
  let errors: string[] = [];
  let clock = new VirtualClock();
  let fail = false;
  const file = (name: string): string => join(directory, name);
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'nodemesh-files-'));
    // As Kubernetes mounts them: files are links into a folder that is itself a link.
    mkdirSync(file('v1'));
    symlinkSync('v1', file('..data'));
    for (const name of ['a', 'b']) {
      writeFileSync(file(`v1/${name}`), `${name}1`);
      symlinkSync(`..data/${name}`, file(name));
    }
    [told, errors, fail] = [[], [], false];
    clock = new VirtualClock();
    const files = { a: file('a'), b: file('b') };
    watch = watchFiles({
      files,
      known: await readTexts(files),
      clock,
      intervalMs: 1000,
      onChange(texts) {
        if (fail) throw new Error('not usable');
        told.push(texts);
      },
      onError: (error) => errors.push(String(error)),
    });
  });
  afterEach(() => {
    watch.close();
    rmSync(directory, { recursive: true });
  });

  it('are told of together when Kubernetes swaps them, once', async () => {
    await watch.check();
    assert.deepEqual(told, []);
    mkdirSync(file('v2'));
    for (const name of ['a', 'b']) writeFileSync(file(`v2/${name}`), `${name}2`);
    symlinkSync('v2', file('..next'));
    renameSync(file('..next'), file('..data'));
    await watch.check();
    await watch.check();
    assert.deepEqual(told, [{ a: 'a2', b: 'b2' }]);
  });

  const swap = (version: number): void => {
    mkdirSync(file(`v${version}`));
    for (const name of ['a', 'b']) writeFileSync(file(`v${version}/${name}`), `${name}${version}`);
    symlinkSync(`v${version}`, file('..next'));
    renameSync(file('..next'), file('..data'));
  };

  it('are never read half before and half after Kubernetes swaps them', async () => {
    for (let version = 2; version < 300; version++) {
      const reading = readTexts({ a: file('a'), b: file('b') });
      for (let turn = 0; turn < version % 40; turn++) await new Promise(setImmediate);
      swap(version);
      const { a, b } = await reading;
      assert.equal(a.slice(1), b.slice(1));
    }
  });

  it('are not read at all while they are swapped without end', async () => {
    const swapping = new AbortController();
    const swaps = (async () => {
      for (let version = 2; !swapping.signal.aborted; version++) {
        swap(version);
        await new Promise(setImmediate);
      }
    })();
    try {
      for (let round = 0; round < 20; round++) {
        // More than are read at once.
        const files = {
          a: file('a'),
          b: file('b'),
          c: file('./a'),
          d: file('./b'),
          e: file('a'),
          f: file('b'),
        };
        const versions = await readTexts(files).then(
          (texts) => Object.values(texts).map((text) => text.slice(1)),
          (error: unknown) => {
            assert.match(String(error), /\/a and .*\/b were replaced each of 5 times/);
            return [];
          },
        );
        assert.ok(new Set(versions).size <= 1, versions.join(' '));
      }
    } finally {
      swapping.abort();
      await swaps;
    }
  });

  it('are read again at every interval, until closed', async () => {
    writeFileSync(file('v1/a'), 'changed');
    clock.advance(1000);
    while (told.length === 0) await new Promise(setImmediate);
    assert.deepEqual(told, [{ a: 'changed', b: 'b1' }]);
    await new Promise(setImmediate);
    assert.equal(clock.pendingTimers, 1);
    watch.close();
    assert.equal(clock.pendingTimers, 0);
  });

  it('that cannot be read, or used, are complained about once', async () => {
    rmSync(file('v1/b'));
    await watch.check();
    await watch.check();
    assert.equal(errors.length, 1);
    assert.match(errors[0] ?? '', /cannot read .*\/b/);
    fail = true;
    writeFileSync(file('v1/b'), 'b2');
    await watch.check();
    await watch.check();
    assert.deepEqual(errors.slice(1), ['Error: not usable']);
    fail = false;
    writeFileSync(file('v1/b'), 'b3');
    await watch.check();
    assert.deepEqual(told, [{ a: 'a1', b: 'b3' }]);
  });

  it('are read up to their limit', async () => {
    writeFileSync(file('large'), Buffer.alloc(1024 * 1024, 'x'));
    assert.equal((await readText(file('large'))).length, 1024 * 1024);
    writeFileSync(file('large'), Buffer.alloc(1024 * 1024 + 1, 'x'));
    await assert.rejects(readText(file('large')), { code: 'MESH_LIMIT' });
  });
});
