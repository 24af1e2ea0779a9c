// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openMetricsFaults } from './open-metrics.ts';

const GOOD = `# HELP seen Total of what was \\"seen\\".
# TYPE seen counter
seen_total{who="a\\"b",how=""} 3
seen_total 1.5e+21
# HELP open Now.
# TYPE open gauge
open -1
# HELP took_ms Time.
# TYPE took_ms histogram
took_ms_bucket{x="1",le="1"} 1
took_ms_bucket{x="1",le="+Inf"} 2
took_ms_sum{x="1"} 7.5
took_ms_count{x="1"} 2
took_ms_bucket{le="+Inf"} 0
took_ms_sum 0
took_ms_count 0
# EOF
`;

describe('the strict reader of OpenMetrics', () => {
  test('finds nothing where nothing is wrong', () => assert.deepEqual(openMetricsFaults(GOOD), []));

  const faults: readonly (readonly [string, string, string, RegExp])[] = [
    ['no end', '# EOF\n', '', /does not end/],
    ['a line after the end', '# EOF\n', '# EOF\nopen 1\n', /does not end/],
    ['an empty line', 'open -1\n', 'open -1\n\n', /neither metadata/],
    ['no type', '# TYPE open gauge\n', '', /not of the family/],
    ['no help', '# HELP open Now.\n', '', /no TYPE or no HELP/],
    ['two helps', '# HELP open Now.\n', '# HELP open Now.\n# HELP open Now.\n', /HELP twice/],
    ['a counter without its ending', 'seen_total 1.5e+21', 'seen 1', /not of the family/],
    [
      'a counter named with its ending',
      '# TYPE seen counter',
      '# TYPE seen_total counter',
      /with its ending/,
    ],
    ['a counter that is none', 'seen_total 1.5e+21', 'seen_total NaN', /below 0/],
    ['a series twice', 'open -1\n', 'open -1\nopen -1\n', /a series twice/],
    [
      'the same with labels in another order',
      'seen_total 1.5e+21',
      'seen_total{how="",who="a\\"b"} 3',
      /twice/,
    ],
    ['a family in two places', '# EOF\n', '# TYPE open gauge\nopen{x="1"} 1\n# EOF\n', /not in one place/],
    ['a label twice', 'how=""', 'who=""', /the label who twice/],
    ['a comma at the end', 'how=""', 'how="",', /cannot be read/],
    ['a value of JavaScript', 'open -1', 'open Infinity', /no number/],
    ['no last bucket', 'took_ms_bucket{x="1",le="+Inf"} 2\n', '', /no bucket \+Inf/],
    ['buckets that fall', 'le="1"} 1', 'le="1"} 3', /not cumulative/],
    [
      'buckets out of order',
      'le="+Inf"} 2\n',
      'le="+Inf"} 2\ntook_ms_bucket{x="1",le="0"} 2\n',
      /out of order/,
    ],
    ['a count of its own', 'count{x="1"} 2', 'count{x="1"} 3', /count is not/],
    ['no sum', 'took_ms_sum{x="1"} 7.5\n', '', /no sum/],
    [
      'a histogram in two places',
      'took_ms_count 0\n',
      'took_ms_count 0\ntook_ms_sum{x="1"} 7\n',
      /not in one place/,
    ],
    ['a name with two meanings', '# TYPE open gauge', '# TYPE seen_total gauge', /two things/],
  ];
  for (const [name, from, to, seen] of faults) {
    test(`finds ${name}`, () => {
      assert.ok(GOOD.includes(from));
      assert.match(openMetricsFaults(GOOD.replace(from, to)).join('\n'), seen);
    });
  }
});
