// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '#lib/core/clock.ts';
import { recordingLog } from '#lib/core/log.ts';
import {
  podSeen,
  type RegistryFixture,
  registryBehaviour,
  testNamespace,
  testPod,
} from '#lib/registry/behaviour.ts';
import type { Registry } from '#lib/registry/registry.ts';
import { createFolderRegistry, type FolderRegistry } from './folder-registry.ts';

const log = recordingLog();

async function folderFixture(): Promise<
  Omit<RegistryFixture, 'registry'> & { readonly folder: string; readonly registry: FolderRegistry }
> {
  const folder = await mkdtemp(join(tmpdir(), 'nodemesh-registry-'));
  const open = () => createFolderRegistry({ folder, cluster: 'test', clock: systemClock, log });
  const registry = open();
  const fileOf = (kind: string, namespace: string, name: string) =>
    join(folder, `${kind.toLowerCase()}.${namespace === '' ? '_' : namespace}.${name}.yaml`);
  const write = async (object: Readonly<Record<string, unknown>>, uid: string): Promise<string> => {
    const metadata = object['metadata'] as { namespace?: string; name: string };
    const file = fileOf(String(object['kind']), metadata.namespace ?? '', metadata.name);
    await writeFile(`${file}.tmp`, JSON.stringify({ ...object, metadata: { uid, ...metadata } }));
    await rename(`${file}.tmp`, file);
    return uid;
  };
  return {
    folder,
    registry,
    another: open,
    apply: (object) => write(object, 'uid-web'),
    replace: (object) => write(object, 'uid-of-successor'),
    delete: (kind, namespace, name) => rm(fileOf(kind, namespace, name)),
    async close() {
      await registry.close();
      await rm(folder, { recursive: true });
    },
  };
}

registryBehaviour('folder of manifests', folderFixture);

/** Resolves once a namespace has the label. */
async function namespaceSeen(registry: Registry, name: string, color: string | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const check = (found: { metadata: { name: string; labels: Readonly<Record<string, string>> } }): void => {
      if (found.metadata.name !== name || found.metadata.labels['color'] !== color) return;
      queueMicrotask(() => watch.close());
      resolve();
    };
    const watch = registry.watch('Namespace', { added: check, changed: check, removed: () => undefined });
  });
}

const namespaceYaml = (name: string, color: string) =>
  `apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ${name}\n  labels: {color: ${color}}\n`;

describe('folder registry', () => {
  it('a bad edit keeps the last good objects of its file, and says what is wrong once', async () => {
    const { folder, registry, close } = await folderFixture();
    const file = join(folder, 'shop.yaml');
    await writeFile(file, namespaceYaml('shop', 'red'));
    await namespaceSeen(registry, 'shop', 'red');
    const before = log.lines.length;
    await writeFile(file, 'apiVersion: v1\nkind: Namespace\nmetadata: {name: [}\n');
    // A change in another file is read in the same or a later round: then the bad one has been read too.
    await writeFile(join(folder, 'other.yaml'), namespaceYaml('other', 'blue'));
    await namespaceSeen(registry, 'other', 'blue');
    assert.equal(
      registry.list('Namespace').find((found) => found.metadata.name === 'shop')?.metadata.labels['color'],
      'red',
    );
    await writeFile(file, namespaceYaml('shop', 'green'));
    await namespaceSeen(registry, 'shop', 'green');
    const told = log.lines
      .slice(before)
      .filter((line) => String(line.fields['problem']).startsWith('shop.yaml'));
    assert.equal(told.length, 1);
    assert.match(String(told[0]?.fields['problem']), /not YAML.*line 3/);
    await close();
  });

  it('reads many documents and Lists; the first of two definitions wins', async () => {
    const { folder, registry, close } = await folderFixture();
    await writeFile(join(folder, 'b.yaml'), namespaceYaml('one', 'second'));
    const list = { apiVersion: 'v1', kind: 'List', items: [testNamespace('three'), testPod('three', 'web')] };
    await writeFile(
      join(folder, 'a.yaml'),
      `${namespaceYaml('one', 'first')}---\n# nothing\n---\n${namespaceYaml('two', 'x')}---\n${JSON.stringify(list)}`,
    );
    await podSeen(registry, 'web', (pod) => pod !== undefined);
    await namespaceSeen(registry, 'one', 'first');
    assert.deepEqual(
      registry
        .list('Namespace')
        .map((found) => found.metadata.name)
        .sort(),
      ['one', 'three', 'two'],
    );
    assert.match(registry.problems.join(), /b\.yaml: Namespace one stands in a\.yaml/);
    await close();
  });

  it('a folder that vanishes takes nothing away', async () => {
    const { folder, registry, close, apply } = await folderFixture();
    await apply(testPod('shop', 'web'));
    await podSeen(registry, 'web', (pod) => pod !== undefined);
    await rename(folder, `${folder}-away`);
    await assert.rejects(readdir(folder));
    assert.equal(registry.list('Pod').length, 1);
    await rename(`${folder}-away`, folder);
    await apply(testPod('shop', 'later'));
    await podSeen(registry, 'later', (pod) => pod !== undefined);
    assert.equal(registry.list('Pod').length, 2);
    await close();
  });

  it('the status file holds condition and events, and goes with its pod', async () => {
    const { folder, registry, close, apply, delete: remove } = await folderFixture();
    await apply(testPod('shop', 'web'));
    const pod = await podSeen(registry, 'web', (found) => found !== undefined);
    const ref = { cluster: 'test', namespace: 'shop', name: 'web', uid: 'uid-web' };
    const event = { type: 'Warning', reason: 'NotMeshed', message: 'host network' } as const;
    await registry.reportStatus(ref, { events: [event] });
    await registry.reportStatus(ref, { events: [event] });
    await registry.reportStatus(ref, {
      condition: { status: 'True', reason: 'Enrolled', message: 'ok', generation: 3 },
    });
    const path = join(folder, '.status', 'uid-web.json');
    const written = JSON.parse(await readFile(path, 'utf8')) as {
      condition: { status: string };
      events: { reason: string }[];
    };
    assert.equal(written.condition.status, 'True');
    assert.deepEqual(
      written.events.map((found) => found.reason),
      ['NotMeshed'],
    );
    assert.equal(pod?.metadata.uid, 'uid-web');
    const gone = podSeen(registry, 'web', (found) => found === undefined);
    await remove('Pod', 'shop', 'web');
    await gone;
    while ((await readdir(join(folder, '.status'))).length > 0)
      await new Promise((resolve) => setImmediate(resolve));
    await close();
  });

  it('writes what was reported before it closes, and nothing afterwards', async () => {
    const { folder, registry, apply } = await folderFixture();
    await apply(testPod('shop', 'web'));
    await podSeen(registry, 'web', (found) => found !== undefined);
    const ref = { cluster: 'test', namespace: 'shop', name: 'web', uid: 'uid-web' };
    const reports = ['first', 'second'].map(async (message) =>
      registry.reportStatus(ref, { events: [{ type: 'Warning', reason: 'NotMeshed', message }] }),
    );
    await registry.close();
    assert.match(await readFile(join(folder, '.status', 'uid-web.json'), 'utf8'), /second/);
    await Promise.all(reports);
    await rm(folder, { recursive: true });
    await registry.reportStatus(ref, {
      events: [{ type: 'Warning', reason: 'NotMeshed', message: 'third' }],
    });
    await assert.rejects(readdir(folder));
  });

  it('a manifest cannot claim that its pod is enrolled', async () => {
    const { registry, close, apply } = await folderFixture();
    const pod = testPod('shop', 'web');
    await apply({
      ...pod,
      status: { ...pod.status, conditions: [{ type: 'nodemesh.io/Enrolled', status: 'True' }] },
    });
    const seen = await podSeen(registry, 'web', (found) => found !== undefined);
    assert.deepEqual(seen?.status.conditions, []);
    await close();
  });
});
