// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { array, assert as check, constantFrom, oneof, property, string } from 'fast-check';
import { MeshError } from '#lib/core/errors.ts';
import { parseManifests, requireManifests } from './manifests.ts';

const strict = { cluster: 'local', strict: true };
const loose = { cluster: 'local' };

const deployment = (spec: string): string => `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
${spec}
`;

describe('manifests', () => {
  const malformed: readonly (readonly [string, string, RegExp])[] = [
    ['not YAML', 'kind: [', /^x\.yaml: not YAML: .*line 1/],
    ['a tab', 'kind:\n\tPod', /^x\.yaml: not YAML/],
    ['a key twice', 'kind: Pod\nkind: Pod', /not YAML: .*unique/],
    ['a text', 'hello', /holds a string, not a Kubernetes object/],
    ['a list', '- kind: Pod', /holds a list, not a Kubernetes object/],
    ['no kind', 'apiVersion: v1\nmetadata: {name: a}', /apiVersion or kind is missing/],
    ['a kind that is no text', 'apiVersion: v1\nkind: 7', /apiVersion or kind is missing/],
    [
      'an unknown kind',
      'apiVersion: v1\nkind: Gadget',
      /kind Gadget \(v1\) is not read here; known kinds: Namespace/,
    ],
    ['an inherited name as kind', 'apiVersion: v1\nkind: toString', /kind toString/],
    [
      'another apiVersion',
      'apiVersion: v1\nkind: Deployment',
      /Deployment has apiVersion v1; write apps\/v1/,
    ],
    ['no metadata', 'apiVersion: v1\nkind: Namespace', /\(Namespace without a name\): metadata is missing/],
    ['no name', 'apiVersion: v1\nkind: Namespace\nmetadata: {}', /metadata\.name is missing/],
    [
      'a bad name',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: My_Shop}',
      /\(Namespace My_Shop\): metadata\.name a name may hold lower-case/,
    ],
    [
      'a path as a name',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: ../../etc}',
      /metadata\.name a name may hold/,
    ],
    [
      'a label that is a number',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {v: 2}}',
      /metadata\.labels\.v expected text \(quote/,
    ],
    [
      'an annotation that is true',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {linkerd.io/inject: true}}',
      /metadata\.annotations.* expected text \(quote/,
    ],
    [
      'a pod without containers',
      'apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}',
      /\(Pod a\): spec\.containers a pod needs a container/,
    ],
    [
      'a port out of range',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 65536}]}',
      /spec\.ports\[0\]\.port expected a port from 1 to 65535/,
    ],
    [
      'a port as text',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: "80"}]}',
      /spec\.ports\[0\]\.port expected a port number/,
    ],
    [
      'no address',
      'apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.300}',
      /spec\.clusterIPs "10\.0\.0\.300" is no IP address/,
    ],
    [
      'replicas below none',
      deployment('    spec: {containers: [{name: a}]}\n  replicas: -1'),
      /\(Deployment shop\/web\): spec\.replicas expected 0 or more/,
    ],
    [
      'no template',
      'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {}}',
      /spec\.template is missing/,
    ],
    [
      'a field with a typing mistake',
      deployment('    spec: {containers: [{name: a}]}\n  replica: 2'),
      /spec\.replica is no field of Kubernetes; did you mean "replicas"\?/,
    ],
    [
      'a deep unknown field',
      deployment('    spec: {containers: [{name: a, port: []}]}'),
      /spec\.template\.spec\.containers\[0\]\.port is no field.*"ports"/,
    ],
    [
      'the same object twice',
      'apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}',
      /document 2 \(Namespace a\): stands twice/,
    ],
    [
      'a bad item of a List',
      'apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- 7',
      /x\.yaml, item 2: holds a number/,
    ],
    [
      'too many aliases',
      `a: &a [x]\nb: &b [${Array(20).fill('*a').join()}]\nc: [${Array(20).fill('*b').join()}]`,
      /not usable YAML/,
    ],
  ];
  for (const [what, text, expected] of malformed) {
    it(`names ${what}, where it is and what to do`, () => {
      const { problems } = parseManifests(text, 'x.yaml', strict);
      assert.equal(problems.length, 1, problems.join('\n'));
      assert.match(problems[0] ?? '', expected);
      assert.throws(
        () => requireManifests(text, 'x.yaml', strict),
        (error) => error instanceof MeshError && error.code === 'MESH_MANIFEST_INVALID',
      );
    });
  }

  it('tells all problems at once', () => {
    const text = 'apiVersion: v1\nkind: Pod\nmetadata: {name: A, labels: {a: 1}}\nspec: {}\n---\nkind: x';
    assert.equal(parseManifests(text, 'x.yaml', strict).problems.length, 4);
  });

  it('where nobody wrote by hand, unknown kinds are left out and unknown fields pass', () => {
    const text = `apiVersion: example.org/v1\nkind: Gadget\n---\n${deployment('    spec: {containers: [{name: a}]}\n  replica: 2')}`;
    const { manifests, problems, warnings } = parseManifests(text, 'x.yaml', loose);
    assert.deepEqual(problems, []);
    assert.deepEqual(
      manifests.map(({ resource }) => resource.kind),
      ['Deployment'],
    );
    assert.match(warnings.join(), /document 1: kind Gadget/);
  });

  it('keeps the object as written, and gives objects without a uid always the same one', () => {
    const text = deployment('    spec: {containers: [{name: a, command: [sleep, "1"]}]}');
    const [first] = requireManifests(text, 'x.yaml', strict);
    const [second] = requireManifests(text, 'y.yaml', strict);
    assert.equal(first?.resource.metadata.uid, second?.resource.metadata.uid);
    assert.match(first?.resource.metadata.uid ?? '', /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    assert.ok(JSON.stringify(first?.raw).includes('"command":["sleep","1"]'));
    assert.equal(first?.source, 'x.yaml');
  });

  it('empty files and comments hold nothing', () => {
    for (const text of ['', '\n', '# nothing', '---\n---\n', 'null']) {
      const { manifests, problems } = parseManifests(text, 'x.yaml', strict);
      assert.deepEqual([manifests.length, problems.length], [0, 0], JSON.stringify(text));
    }
  });

  it('never throws, whatever the text', () => {
    const pieces = constantFrom(
      'kind: Pod\n',
      'apiVersion: v1\n',
      'metadata:\n',
      '  name: a\n',
      '---\n',
      '- ',
      '{',
      '*a',
      '&a ',
      '? ',
      '!!binary ',
      '|\n',
      '<<: ',
    );
    check(
      property(
        oneof(
          string(),
          array(oneof(pieces, string({ maxLength: 5 }))).map((all) => all.join('')),
        ),
        (text) => {
          parseManifests(text, 'x.yaml', strict);
        },
      ),
      { numRuns: 500 },
    );
  });
});
