// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseManifests } from './manifests.ts';

const parse = (text: string) => parseManifests([{ file: 'app.yaml', text }]);

const POD = `
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  containers:
    - name: main
      command: [node, web.ts]
`;

describe('manifests', () => {
  test('documents come in their order; empty ones and empty files are nothing', () => {
    const found = parse(`${POD}\n---\n---\napiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n`);
    assert.deepEqual(
      found.map(({ manifest }) => [manifest.kind, manifest.metadata.name]),
      [
        ['Pod', 'web'],
        ['Namespace', 'shop'],
      ],
    );
    assert.deepEqual(parse(''), []);
    assert.deepEqual(parse('# only a comment\n'), []);
  });

  const cases: Readonly<Record<string, [string, RegExp]>> = {
    'not YAML': ['a: [', /^app\.yaml, document 1: not YAML: .*correct the syntax/],
    'not an object': ['- 1', /document 1: not an object/],
    'no kind': ['metadata: { name: x }', /, kind: missing; a local mesh takes Namespace, /],
    'an alias to nothing': ['kind: *x', /document 1: not YAML: .*alias/i],
    'a container twice': [
      `${POD}    - { name: main, command: [x] }`,
      /\(Pod web\), spec: the container main is there twice; remove or rename one/,
    ],
    'a volume that is not there': [
      `${POD}      volumeMounts: [{ name: data, mountPath: /tmp }]`,
      /\(Pod web\), spec: the volume data is mounted but not there; add it to volumes/,
    ],
    'a port twice': [
      'apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { ports: [{ port: 80, name: a }, { port: 80, name: b }] }',
      /\(Service a\), spec: the port 80\/TCP is there twice/,
    ],
    'an unknown kind': ['kind: Ingress', /unknown kind "Ingress"; a local mesh takes/],
    'an unknown field': [
      POD.replace('spec:', 'sepc: {}\nspec:'),
      /\(Pod web\), sepc: unknown field; remove it/,
    ],
    'an unknown field deep inside': [
      `${POD}      livenessProbe: { httpGet: { prot: 80, port: 80 } }\n`,
      /spec\.containers\.0\.livenessProbe\.httpGet\.prot: unknown field/,
    ],
    'a missing field': [
      POD.replace('- name: main', '- image: x'),
      /spec\.containers\.0\.name: missing; add it/,
    ],
    'a number where text belongs': [
      `${POD}      env: [{ name: A, value: 1 }]\n`,
      /env\.0\.value: expected text but found 1; put it in quotes/,
    ],
    'no command': [
      POD.replace('[node, web.ts]', '[]'),
      /command: a local mesh runs no images; name the program/,
    ],
    'a bad name': [POD.replace('name: web', 'name: Web_1'), /metadata\.name: expected lower-case/],
    'a Deployment whose template lacks the labels': [
      `apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: other } }
    spec: { containers: [{ name: main, command: [a] }] }
`,
      /spec: the template must carry the labels/,
    ],
  };
  for (const [name, [text, expected]] of Object.entries(cases)) {
    test(`${name} is refused with file, document, field and remedy`, () => {
      assert.throws(() => parse(text), { code: 'MESH_MANIFEST_INVALID', message: expected });
    });
  }

  test('all mistakes of all documents are told at once', () => {
    assert.throws(() => parse(`kind: A\n---\nkind: B\n`), /document 1, kind.*\n.*document 2, kind/);
  });
});
