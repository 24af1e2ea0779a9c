// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { it } from 'node:test';
import { parse, parseAllDocuments } from 'yaml';

const FOLDER = resolve(import.meta.dirname, '../../docs/monitoring');
const read = (name: string): string => readFileSync(`${FOLDER}/${name}`, 'utf8');

type Rule = Readonly<Record<string, unknown>>;
interface Monitor {
  readonly spec: {
    readonly podMetricsEndpoints: readonly [{ readonly honorLabels: boolean; readonly relabelings: Rule[] }];
  };
}

it('the PodMonitor of the agents has the rules of the scrape configuration, and drops what the operator adds', () => {
  const [job] = parse(read('scrape-config.yaml')) as [{ honor_labels: boolean; relabel_configs: Rule[] }];
  const [monitor] = parseAllDocuments(read('pod-monitor.yaml')).map((one) => one.toJS() as Monitor);
  const [endpoint] = monitor?.spec.podMetricsEndpoints ?? assert.fail('no endpoint');
  const snake = (rule: Rule): Rule =>
    Object.fromEntries(
      Object.entries(rule).map(([key, value]) => [
        key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
        value,
      ]),
    );
  const rules = endpoint.relabelings.map(snake);
  assert.deepEqual(rules.slice(0, -1), job.relabel_configs);
  assert.deepEqual(rules.at(-1), { regex: 'namespace|pod|container|endpoint', action: 'labeldrop' });
  assert.deepEqual([endpoint.honorLabels, job.honor_labels], [true, true]);
});
