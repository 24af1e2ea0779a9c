// SPDX-License-Identifier: Apache-2.0
import { strict as assert } from 'node:assert';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { VirtualClock } from '#lib/core/clock.ts';
import { joinLabels, type MetricDefinition, type MetricFamily, renderLabels } from './model.ts';
import { MetricRegistry } from './registry.ts';
import { MetricStore, REFUSED_FAMILY } from './store.ts';

const families: readonly MetricFamily[] = [
  { name: 'requests_total', type: 'counter', help: 'Requests.' },
  { name: 'open', type: 'gauge', help: 'Open.' },
  { name: 'latency_ms', type: 'histogram', help: 'Latency.', buckets: [1, 5, 10] },
  { name: 'most', type: 'gauge', help: 'Most.', merge: 'max' },
  { name: 'started', type: 'gauge', help: 'Start.', merge: 'min' },
];

function setUp(sources = 1) {
  const clock = new VirtualClock();
  const registry = new MetricRegistry(families, clock);
  const store = (source: number, id: string, seriesMax?: number, ownerSeriesMax?: number): MetricStore =>
    new MetricStore({
      id,
      families,
      clock,
      // As a message would: a copy of everything but the shared memory.
      send: (definition: MetricDefinition) => registry.define(source, structuredClone(definition)),
      ...(seriesMax === undefined ? {} : { seriesMax }),
      ...(ownerSeriesMax === undefined ? {} : { ownerSeriesMax }),
    });
  const stores = Array.from({ length: sources }, (_, source) => store(source, `life-${source}`));
  return { clock, registry, stores, store, first: stores[0] as MetricStore };
}

const lines = (text: string): string[] =>
  text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));

describe('metrics', () => {
  test('counters and gauges of several threads are summed, levels and starts are not', async () => {
    const { registry, stores } = setUp(2);
    stores.forEach((store, index) => {
      store.cell('requests_total', 'a="1"', 'pod').add(index + 1);
      store.cell('open', '', '').add(2);
      store.cell('most', '', '').set(7 - index);
      store.cell('started', '', '').set(100 + index);
    });
    assert.equal(
      await registry.render(),
      '# HELP requests_total Requests.\n# TYPE requests_total counter\nrequests_total{a="1"} 3\n' +
        '# HELP open Open.\n# TYPE open gauge\nopen 4\n# HELP most Most.\n# TYPE most gauge\nmost 7\n' +
        '# HELP started Start.\n# TYPE started gauge\nstarted 100\n',
    );
  });

  test('histograms have cumulative buckets, sum and count', async () => {
    const { registry, first } = setUp();
    const cell = first.cell('latency_ms', 'a="1"', '');
    for (const value of [0.5, 1, 1.5, 5, 7, 99]) cell.observe(value);
    assert.deepEqual(lines(await registry.render()), [
      'latency_ms_bucket{a="1",le="1"} 2',
      'latency_ms_bucket{a="1",le="5"} 4',
      'latency_ms_bucket{a="1",le="10"} 5',
      'latency_ms_bucket{a="1",le="+Inf"} 6',
      'latency_ms_sum{a="1"} 114',
      'latency_ms_count{a="1"} 6',
    ]);
  });

  test('a value is counted where it belongs, wherever the last one fell', () => {
    const { first } = setUp();
    const values = [0, 1, 1.1, 5, 5.1, 10, 10.1, 99];
    const bucketOf = (value: number): number =>
      [1, 5, 10, Number.POSITIVE_INFINITY].findIndex((bound) => value <= bound);
    for (const last of values) {
      for (const value of values) {
        const cell = first.cell('latency_ms', `a="${last} ${value}"`, '');
        cell.observe(last);
        cell.observe(value);
        const expected = [0, 0, 0, 0];
        for (const one of [last, value]) expected[bucketOf(one)] = (expected[bucketOf(one)] ?? 0) + 1;
        assert.deepEqual([...cell.values.subarray(cell.at, cell.at + 4)], expected, `${last}, ${value}`);
      }
    }
  });

  test('an owner leaves as a whole: no sum goes back while one thread is ahead of another', async () => {
    const { registry, stores } = setUp(2);
    const [ahead, behind] = stores as [MetricStore, MetricStore];
    const count = (store: MetricStore, by: number) => store.cell('requests_total', 'pod="a"', 'uid').add(by);
    count(ahead, 5);
    count(behind, 7);
    ahead.removeOwner('uid');
    assert.deepEqual(lines(await registry.render()), []);
    // It came back: the thread that is behind speaks of its first life.
    count(ahead, 1);
    behind.removeOwner('uid');
    assert.deepEqual(lines(await registry.render()), ['requests_total{pod="a"} 1']);
    count(behind, 1);
    behind.removeOwner('uid');
    ahead.removeOwner('uid');
    assert.deepEqual(lines(await registry.render()), []);
  });

  test('a thread that ended before it let go of an owner is not waited for', async () => {
    const { registry, stores, store } = setUp(2);
    const [ahead, behind] = stores as [MetricStore, MetricStore];
    for (const one of [ahead, behind]) one.cell('requests_total', 'pod="a"', 'uid').add(1);
    ahead.removeOwner('uid');
    const next = store(1, 'life-2');
    next.cell('requests_total', 'pod="a"', 'uid').add(3);
    ahead.cell('requests_total', 'pod="a"', 'uid').add(1);
    assert.deepEqual(lines(await registry.render()), ['requests_total{pod="a"} 4']);
    next.removeOwner('uid');
    assert.deepEqual(lines(await registry.render()), []);
  });

  test('a view of one owner has its series alone', async () => {
    const { registry, first } = setUp();
    first.cell('requests_total', 'pod="a"', 'uid-a').add(1);
    first.cell('requests_total', 'pod="b"', 'uid-b').add(1);
    registry.collect({ name: 'node_total', type: 'counter', help: 'Node.' }, () => [
      { labels: '', value: 3 },
    ]);
    assert.deepEqual(lines(await registry.render('uid-a')), ['requests_total{pod="a"} 1']);
    assert.ok((await registry.render()).includes('node_total 3'));
  });

  test('what a thread counted stays after its end; its gauges go', async () => {
    const { registry, store } = setUp(0);
    const before = store(0, 'first life');
    before.cell('requests_total', '', '').add(5);
    before.cell('open', '', '').add(5);
    before.cell('latency_ms', '', '').observe(3);
    const successor = store(0, 'second life');
    successor.cell('requests_total', '', '').add(2);
    const text = await registry.render();
    assert.ok(text.includes('requests_total 7\n'), text);
    assert.ok(text.includes('latency_ms_count 1\n'), text);
    assert.ok(!text.includes('open'), text);
  });

  test("an owner's series go from all threads, also what ended ones counted", async () => {
    const { registry, store } = setUp(0);
    store(0, 'first life').cell('requests_total', 'pod="a"', 'uid-a').add(5);
    const successor = store(0, 'second life');
    const held = successor.cell('requests_total', 'pod="a"', 'uid-a');
    const other = store(1, 'other');
    other.cell('requests_total', 'pod="a"', 'uid-a').add(1);
    const kept = other.cell('requests_total', 'pod="b"', 'uid-b');
    kept.add(9);
    successor.removeOwner('uid-a');
    other.removeOwner('uid-a');
    held.add(100);
    assert.deepEqual(lines(await registry.render()), ['requests_total{pod="b"} 9']);
    assert.equal(registry.seriesCount, 1);
    assert.equal(successor.size, 0);
  });

  test("another process's counts are added to those here, until its owner leaves", async () => {
    const [earlier, { registry, first }] = [setUp(), setUp()];
    for (const pod of ['a', 'b']) earlier.first.cell('requests_total', `pod="${pod}"`, pod).add(5);
    earlier.first.cell('latency_ms', 'pod="b"', 'b').observe(7);
    earlier.first.cell('open', '', '').add(1);
    earlier.first.cell('started', '', 'b').set(100);
    first.cell('started', '', 'b').set(200);
    registry.takeCounts('earlier', structuredClone(earlier.registry.counts()));
    first.cell('requests_total', 'pod="a"', 'a').add(1);
    first.cell('latency_ms', 'pod="b"', 'b').observe(0);
    const histogram = [
      'latency_ms_bucket{pod="b",le="1"} 1',
      'latency_ms_bucket{pod="b",le="5"} 1',
      'latency_ms_bucket{pod="b",le="10"} 2',
      'latency_ms_bucket{pod="b",le="+Inf"} 2',
      'latency_ms_sum{pod="b"} 7',
      'latency_ms_count{pod="b"} 2',
      'started 100',
    ];
    const both = ['requests_total{pod="a"} 6', 'requests_total{pod="b"} 5', ...histogram];
    assert.deepEqual(lines(await registry.render()), both);
    first.removeOwner('a');
    // It has not heard of that so far.
    registry.takeCounts('earlier', structuredClone(earlier.registry.counts()));
    assert.deepEqual(lines(await registry.render()), both.slice(1));
    registry.endOther('earlier');
    assert.deepEqual(lines(await registry.render()), both.slice(1));
  });

  test("another process's family of another form is left out", async () => {
    const { registry } = setUp();
    registry.takeCounts('earlier', {
      latency_ms: [['', '', [1, 2]]],
      requests_total: [['', '', [4]]],
      gone_total: [['', '', [1]]],
      open: [['', '', [1]]],
    });
    assert.deepEqual(lines(await registry.render()), ['requests_total 4']);
  });

  test('a series that nobody holds goes after ten minutes, and a sum over threads never falls', async () => {
    const { clock, registry, stores, first } = setUp(2);
    const second = stores[1] as MetricStore;
    const idle = first.cell('requests_total', 'x="1"', '');
    idle.add(3);
    second.cell('requests_total', 'x="1"', '').add(4);
    first.release(first.cell('requests_total', 'y="1"', ''));
    first.release(idle);
    clock.advance(9 * 60_000);
    first.sweep();
    assert.equal(first.size, 2);
    clock.advance(60_000);
    first.sweep();
    assert.equal(first.size, 0);
    assert.deepEqual(lines(await registry.render()), ['requests_total{x="1"} 7']);
  });

  test('a series that only ended threads have counted goes after ten minutes, one that is counted on does not', async () => {
    const { clock, registry, store } = setUp(0);
    const ended = store(0, 'first life');
    ended.cell('requests_total', 'pod="vanished"', 'uid-a').add(3);
    ended.cell('requests_total', 'pod="stays"', 'uid-a').add(4);
    ended.cell('latency_ms', 'pod="vanished"', 'uid-a').observe(5);
    const successor = store(0, 'second life');
    successor.cell('requests_total', 'pod="new"', 'uid-a');
    clock.advance(9 * 60_000);
    successor.cell('requests_total', 'pod="stays"', 'uid-a').add(1);
    clock.advance(60_000 - 1);
    assert.match(await registry.render(), /requests_total\{pod="vanished"\} 3/);
    clock.advance(1);
    assert.deepEqual(lines(await registry.render()).sort(), [
      'requests_total{pod="new"} 0',
      'requests_total{pod="stays"} 5',
    ]);
    assert.equal(registry.seriesCount, 2);
  });

  test('a crash after the other leaves no more series than those of ten minutes', () => {
    const { clock, registry, store } = setUp(0);
    for (let life = 0; life < 100; life++) {
      store(0, `life ${life}`).cell('requests_total', `client="${life}"`, 'uid-a').add(1);
      clock.advance(60_000);
    }
    assert.ok(registry.seriesCount <= 12, String(registry.seriesCount));
  });

  test('a series that is used again in time is kept', () => {
    const { clock, first } = setUp();
    first.release(first.cell('requests_total', '', ''));
    clock.advance(9 * 60_000);
    const again = first.cell('requests_total', '', '');
    clock.advance(9 * 60_000);
    first.sweep();
    assert.equal(first.size, 1);
    first.release(again);
  });

  test('cells are used again after a while, from zero', async () => {
    const { clock, registry, first } = setUp();
    const before = first.cell('requests_total', 'x="1"', 'gone');
    before.add(3);
    const { values, at } = before;
    first.removeOwner('gone');
    const soon = first.cell('requests_total', 'x="2"', '');
    assert.notEqual(`${soon.at}`, `${at}`);
    clock.advance(60_000);
    const later = first.cell('requests_total', 'x="3"', '');
    assert.equal(later.values, values);
    assert.equal(later.at, at);
    assert.deepEqual(lines(await registry.render()), ['requests_total{x="2"} 0', 'requests_total{x="3"} 0']);
  });

  test('the limit of series holds: one past it counts nowhere and is counted', () => {
    const { store } = setUp(0);
    const small = store(0, 'small', 2);
    small.cell('requests_total', 'n="1"', '');
    small.cell('requests_total', 'n="2"', '');
    small.cell('requests_total', 'n="3"', '').add(1);
    assert.equal(small.size, 2);
    assert.equal(small.refused, 1);
    small.cell('requests_total', 'n="2"', '').add(1);
    assert.equal(small.refused, 1);
  });

  test('what the limit refuses is a series of its own, where the families have it', () => {
    const values: Float64Array[] = [];
    const store = new MetricStore({
      id: 'counted',
      families: [
        { name: REFUSED_FAMILY, type: 'counter', help: '' },
        { name: 'requests_total', type: 'counter', help: '' },
      ],
      send: (definition) => {
        if (definition.kind === 'slab') values.push(new Float64Array(definition.buffer));
      },
      clock: new VirtualClock(),
      seriesMax: 2,
    });
    store.cell('requests_total', 'n="1"', 'a');
    store.cell('requests_total', 'n="2"', 'a');
    store.cell('requests_total', 'n="3"', 'a');
    assert.equal(values[0]?.[0], 2);
  });

  test('one owner uses up no more than its share', () => {
    const { clock, store } = setUp(0);
    const shared = store(0, 'shared', 100, 2);
    const loud = [1, 2, 3].map((n) => shared.cell('requests_total', `n="${n}"`, 'loud'));
    shared.cell('requests_total', 'n="4"', 'quiet');
    assert.equal(shared.size, 3);
    assert.equal(shared.refused, 1);
    for (const cell of loud) shared.release(cell);
    clock.advance(10 * 60_000);
    shared.sweep();
    shared.cell('requests_total', 'n="5"', 'loud');
    shared.removeOwner('loud');
    shared.cell('requests_total', 'n="6"', 'loud');
    shared.cell('requests_total', 'n="7"', 'loud');
    assert.equal(shared.refused, 1);
  });

  test('more cells than a slab holds', async () => {
    const { registry, first } = setUp();
    for (let index = 0; index < 5_000; index++) first.cell('latency_ms', `n="${index}"`, '').observe(index);
    const text = await registry.render();
    assert.ok(text.includes('latency_ms_sum{n="4999"} 4999\n'));
    assert.equal(lines(text).length, 5_000 * 6);
  });

  test('labels are escaped and empty ones leave no comma', () => {
    assert.equal(renderLabels({ a: 'x"\\\n', b: undefined, c: '' }), 'a="x\\"\\\\\\n",c=""');
    assert.equal(joinLabels('', ''), '');
    assert.equal(joinLabels('a="1"', ''), 'a="1"');
    assert.equal(joinLabels('', 'a="1"'), 'a="1"');
  });

  test('counts of a real thread are seen without a message', async () => {
    const registry = new MetricRegistry(families, new VirtualClock());
    const worker = new Worker(new URL('./counting-thread.ts', import.meta.url));
    const done = new Promise<void>((resolve) => {
      worker.on('message', (message: MetricDefinition | 'done') => {
        if (message === 'done') resolve();
        else registry.define(0, message);
      });
    });
    await done;
    assert.ok((await registry.render()).includes('requests_total{thread="1"} 1000\n'));
    await worker.terminate();
    assert.ok((await registry.render()).includes('requests_total{thread="1"} 1000\n'));
  });
});
