// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { applyManifests } from './apply.ts';
import { parseManifests } from './manifests.ts';
import { Store } from './store.ts';

const NAMESPACE = 'apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n';
const pod = (namespace: string, command = 'sleep'): string =>
  `apiVersion: v1\nkind: Pod\nmetadata: { name: web, namespace: ${namespace} }\nspec: { containers: [{ name: main, command: [${command}] }] }\n`;

describe('apply', () => {
  const cases: Readonly<Record<string, [before: string, text: string, expected: RegExp]>> = {
    'a namespace that is not there': [
      '',
      `${NAMESPACE}---\n${pod('other')}`,
      /^app\.yaml, document 2: pod other\/web: there is no namespace other; add a Namespace to the manifests$/,
    ],
    'one object twice': [
      '',
      `${NAMESPACE}---\n${pod('shop')}---\n${pod('shop', 'other')}`,
      /^app\.yaml, document 3: pod shop\/web is there twice, first in app\.yaml, document 2; remove one of them$/,
    ],
    'a change that a pod cannot take': [
      `${NAMESPACE}---\n${pod('shop')}`,
      `apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: a, namespace: shop }\n---\n${pod('shop', 'other')}`,
      /^app\.yaml, document 2: pod shop\/web: the spec of a pod cannot change; delete the pod first/,
    ],
  };
  for (const [name, [before, text, message]] of Object.entries(cases)) {
    test(`refuses ${name}, says where, and applies nothing`, () => {
      const store = new Store();
      const apply = (yaml: string) =>
        applyManifests(store, parseManifests([{ file: 'app.yaml', text: yaml }]));
      apply(before);
      const present = [...store.all()];
      assert.throws(() => apply(text), { code: 'MESH_MANIFEST_INVALID', message });
      assert.deepEqual([...store.all()], present);
    });
  }
});
