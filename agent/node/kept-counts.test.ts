// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import type { MetricFamily } from '#lib/metrics/model.ts';
import { MetricRegistry } from '#lib/metrics/registry.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import { createKeptCounts } from './kept-counts.ts';

const families: readonly MetricFamily[] = [{ name: 'requests_total', type: 'counter', help: 'Requests.' }];

describe('counts kept from agent to agent', () => {
  let folder: string;
  let clock: VirtualClock;
  const log = recordingLog();
  beforeEach(() => {
    folder = join(mkdtempSync(join(tmpdir(), 'nodemesh-counts-')), 'counts');
    clock = new VirtualClock();
    log.lines.length = 0;
  });
  afterEach(() => {
    assert.deepEqual(log.lines, []);
    rmSync(join(folder, '..'), { recursive: true });
  });

  function agent(instance: string) {
    const registry = new MetricRegistry(families, clock);
    const store = new MetricStore({
      id: instance,
      families,
      clock,
      send: (definition) => registry.define(0, definition),
    });
    const kept = createKeptCounts({ folder, instance, registry, clock, log });
    return {
      kept,
      count: (pod: string, by: number) => store.cell('requests_total', `pod="${pod}"`, pod).add(by),
      /** What a scraper is told, pod by pod. */
      async scrape(): Promise<Readonly<Record<string, number>>> {
        kept.read();
        const text = await registry.render();
        return Object.fromEntries(
          [...text.matchAll(/pod="(\w+)"} (\d+)/g)].map(([, pod = '', value]) => [pod, Number(value)]),
        );
      },
    };
  }
  const files = (): string[] => readdirSync(folder).sort();

  it('go on with the next agent, also what the first one counts while it drains', async () => {
    const [first, next] = [agent('first'), agent('next')];
    first.count('web', 5);
    first.kept.giveUp();
    next.count('web', 1);
    next.count('api', 2);
    assert.deepEqual(await next.scrape(), { web: 6, api: 2 });
    first.count('web', 10);
    first.count('late', 1);
    clock.advance(5_000);
    assert.deepEqual(await next.scrape(), { web: 16, api: 2, late: 1 });
    first.count('web', 100);
    first.kept.close();
    assert.deepEqual(await next.scrape(), { web: 116, api: 2, late: 1 });
    clock.advance(30_000);
    assert.deepEqual(await next.scrape(), { web: 116, api: 2, late: 1 });
    assert.deepEqual(files(), []);
    next.count('web', 1);
    assert.deepEqual(await next.scrape(), { web: 117, api: 2, late: 1 });
  });

  it('are counted once, however many agents drain at the same time', async () => {
    const [first, second, third] = [agent('first'), agent('second'), agent('third')];
    first.count('web', 1);
    first.kept.giveUp();
    second.count('web', 10);
    assert.deepEqual(await second.scrape(), { web: 11 });
    second.kept.giveUp();
    third.count('web', 100);
    assert.deepEqual(await third.scrape(), { web: 111 });
    first.count('web', 1);
    second.count('web', 10);
    first.kept.close();
    second.kept.close();
    clock.advance(30_000);
    assert.deepEqual(await third.scrape(), { web: 122 });
    third.kept.close();
    const fourth = agent('fourth');
    assert.deepEqual(await fourth.scrape(), { web: 122 });
  });

  it('are left by an agent that ends before there is a next one', async () => {
    const first = agent('first');
    first.count('web', 7);
    first.kept.close();
    clock.advance(3_600_000);
    const next = agent('next');
    assert.deepEqual(await next.scrape(), { web: 7 });
    assert.deepEqual(files(), []);
  });

  it('are taken back with the role', async () => {
    const first = agent('first');
    first.count('web', 3);
    first.kept.giveUp();
    // Not those of others meanwhile: who answers scrapers shows them.
    const next = agent('next');
    next.count('web', 4);
    assert.deepEqual(await next.scrape(), { web: 7 });
    next.kept.close();
    assert.deepEqual(await first.scrape(), { web: 3 });
    first.kept.take();
    assert.deepEqual(await first.scrape(), { web: 7 });
    clock.advance(10_000);
    assert.deepEqual(files(), ['next.json']);
  });

  it('are not written again once they were taken for good', async () => {
    const first = agent('first');
    first.count('web', 3);
    first.kept.giveUp();
    const next = agent('next');
    // Its disk, or its clock, kept it from writing for so long that it seemed to have ended.
    const later = join(folder, 'first.json');
    writeFileSync(later, readFileSync(later, 'utf8').replace(/"writtenAtMs":\d+/, '"writtenAtMs":0'));
    assert.deepEqual(await next.scrape(), { web: 3 });
    first.count('web', 1);
    clock.advance(5_000);
    first.kept.close();
    assert.deepEqual(files(), []);
    assert.deepEqual(await next.scrape(), { web: 3 });
  });

  it('that cannot be read are said and removed', async () => {
    const next = agent('next');
    next.count('web', 1);
    writeFileSync(join(folder, 'torn.json'), '{"requests_total":[["pod=');
    assert.deepEqual(await next.scrape(), { web: 1 });
    assert.ok(!existsSync(join(folder, 'torn.json')));
    assert.deepEqual(
      log.lines.splice(0).map(({ message }) => message),
      ['counts of an earlier agent cannot be read'],
    );
  });
});
