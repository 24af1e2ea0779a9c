// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { checkFile } from './house-rules.ts';
import { graphOf, importsOf } from './imports.ts';
import { checkLayers, placeOf } from './layers.ts';

const head = '// SPDX-License-Identifier: Apache-2.0\n';
const layersOf = (files: Readonly<Record<string, string>>): string[] =>
  checkLayers(graphOf(new Map(Object.entries(files))));
const errorsOf = (path: string, text: string): string[] =>
  checkFile(path, text)
    .filter((finding) => finding.level === 'error')
    .map((finding) => finding.text);

describe('finding imports', () => {
  test('every form, with its line, types told apart', () => {
    const text = [
      "import { a } from './a.ts';",
      "import type { B } from '#lib/core/b.ts';",
      "import { type C, type D } from '../c.ts';",
      "import 'reflect-metadata';",
      "export * from './d.ts';",
      'import {',
      '  e,',
      "} from 'node:fs';",
      "const late = await import('./late.ts');",
      "// import { x } from './comment.ts';",
      'const text = "import { y } from \'./string.ts\'";',
    ].join('\n');
    assert.deepEqual(
      importsOf('agent/node/x.ts', text).map((found) => [
        found.specifier,
        found.file,
        found.typeOnly,
        found.line,
      ]),
      [
        ['./a.ts', 'agent/node/a.ts', false, 1],
        ['#lib/core/b.ts', 'lib/core/b.ts', true, 2],
        ['../c.ts', 'agent/c.ts', true, 3],
        ['reflect-metadata', undefined, false, 4],
        ['./d.ts', 'agent/node/d.ts', false, 5],
        ['node:fs', undefined, false, 6],
        ['./late.ts', 'agent/node/late.ts', false, 9],
      ],
    );
  });
});

describe('layers', () => {
  test('places', () => {
    assert.deepEqual(placeOf('lib/core/clock.ts'), { part: 'lib/core', layer: 0 });
    assert.deepEqual(placeOf('agent/main.ts'), { part: 'agent', layer: 3 });
    assert.deepEqual(placeOf('agent/proxy/http1/parse.ts'), { part: 'agent/proxy', layer: 2 });
    assert.deepEqual(placeOf('identity/main.ts'), { part: 'identity/main', layer: 3 });
    assert.deepEqual(placeOf('identity/certify.ts'), { part: 'identity', layer: 2 });
  });

  const allowed: Readonly<Record<string, Readonly<Record<string, string>>>> = {
    downwards: {
      'agent/main.ts': "import './node/a.ts';",
      'agent/node/a.ts': "import '#lib/net/b.ts';",
      'lib/net/b.ts': "import '#lib/core/c.ts';",
    },
    'the plugin logic into the agent': { 'agent/node/a.ts': "import '../../cni-plugin/logic/add.ts';" },
    'a test may look at a neighbour': { 'agent/node/a.test.ts': "import '../proxy/b.ts';" },
    'a cycle of types alone': {
      'lib/net/a.ts': "import type { B } from './b.ts';",
      'lib/net/b.ts': "import './a.ts';",
    },
    'the Kubernetes registry for identity': { 'identity/a.ts': "import '#lib/registry-kubernetes/b.ts';" },
  };
  for (const [name, files] of Object.entries(allowed)) {
    test(`allowed: ${name}`, () => assert.deepEqual(layersOf(files), []));
  }

  const refused: Readonly<Record<string, readonly [Readonly<Record<string, string>>, RegExp]>> = {
    'upwards from core': [
      { 'lib/core/a.ts': "import '../net/b.ts';" },
      /^lib\/core\/a\.ts:1: lib\/core \(layer 0\) may not import/,
    ],
    'a dependency of core': [
      { 'lib/core/a.ts': "import { pino } from 'pino';" },
      /lib\/core has no dependencies/,
    ],
    'upwards from a library, types too': [
      { 'lib/tls/a.ts': "\nimport type { B } from '../../agent/node/b.ts';" },
      /^lib\/tls\/a\.ts:2: /,
    ],
    'an entry point': [{ 'destination/a.ts': "import './main.ts';" }, /may not import destination\/main\.ts/],
    'a test folder': [{ 'local/a.ts': "import '../test/e2e/b.ts';" }, /may not import test\/e2e\/b\.ts/],
    'the proxy looks at the node part': [
      { 'agent/proxy/a.ts': "import '../node/b.ts';" },
      /parts of one layer/,
    ],
    'one service looks at another': [
      { 'identity/a.ts': "import '../destination/b.ts';" },
      /parts of one layer/,
    ],
    'a codec with a socket': [
      { 'agent/proxy/http1/a.ts': "import { Socket } from 'node:net';" },
      /a codec imports only/,
    ],
    'a codec with a neighbour': [
      { 'agent/proxy/http1/a.ts': "import '../pool/b.ts';" },
      /a codec imports only/,
    ],
    'cli and the kernel': [{ 'cli/a.ts': "import '#lib/bpf/b.ts';" }, /cli knows no kernel/],
    'the Kubernetes registry in local': [{ 'local/a.ts': "import '#lib/registry-kubernetes/b.ts';" }, /only/],
    'a cycle of files': [
      {
        'lib/net/a.ts': "import './b.ts';",
        'lib/net/b.ts': "import './c.ts';",
        'lib/net/c.ts': "import './a.ts';",
      },
      /import cycle: lib\/net\/a\.ts -> lib\/net\/b\.ts -> lib\/net\/c\.ts -> lib\/net\/a\.ts/,
    ],
    'a cycle of libraries': [
      { 'lib/tls/a.ts': "import type { B } from '../x509/b.ts';", 'lib/x509/c.ts': "import '../tls/d.ts';" },
      /import cycle: lib\/tls -> lib\/x509 -> lib\/tls/,
    ],
    'yargs in the agent, through another file': [
      { 'agent/node/a.ts': "import '#lib/flags/b.ts';", 'lib/flags/b.ts': "import yargs from 'yargs';" },
      /agent\/node\/a\.ts -> lib\/flags\/b\.ts: the agent may not load yargs/,
    ],
  };
  for (const [name, [files, message]] of Object.entries(refused)) {
    test(`refused: ${name}`, () => {
      const problems = layersOf(files);
      assert.equal(problems.length, 1, problems.join('\n'));
      assert.match(problems[0] ?? '', message);
    });
  }
});

describe('house rules', () => {
  test('a good file', () => assert.deepEqual(checkFile('lib/net/a.ts', `${head}export const a = 1;\n`), []));
  test('licence', () => {
    assert.match(errorsOf('lib/net/a.ts', 'export const a = 1;\n')[0] ?? '', /first line/);
    assert.deepEqual(errorsOf('scripts/a.sh', '#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n'), []);
    assert.match(errorsOf('bpf/a.c', head)[0] ?? '', /GPL-2\.0-only OR BSD-2-Clause/);
  });
  test('default export', () =>
    assert.match(errorsOf('lib/a.ts', `${head}export default 1;\n`)[0] ?? '', /:2: default/));
  test('length', () => {
    const long = (lines: number): string => head + 'x();\n'.repeat(lines - 1);
    assert.deepEqual(checkFile('lib/a.ts', long(400)), []);
    assert.equal(checkFile('lib/a.ts', long(401))[0]?.level, 'warning');
    assert.equal(checkFile('lib/a.ts', long(800))[0]?.level, 'warning');
    assert.equal(checkFile('lib/a.ts', long(801))[0]?.level, 'error');
  });
  test('paths of one machine and hosts of registries', () => {
    const slash = '/';
    assert.match(errorsOf('docs/a.md', `see ${slash}work/main`)[0] ?? '', /path of one machine/);
    assert.deepEqual(errorsOf('docs/a.md', 'docs/work/main and framework/x'), []);
    assert.match(
      errorsOf('package-lock.json', `"resolved": "https:${slash}/npm.example.test/a.tgz"`)[0] ?? '',
      /registry/,
    );
    assert.deepEqual(errorsOf('package-lock.json', '"resolved": "https://registry.npmjs.org/a.tgz"'), []);
  });
  test('a TODO says what and when', () => {
    const word = ['TO', 'DO'].join('');
    assert.equal(errorsOf('docs/a.md', `${word} later`).length, 1);
    assert.deepEqual(errorsOf('docs/a.md', `${word}: drop this when kernels before 6.10 are gone`), []);
  });
});
