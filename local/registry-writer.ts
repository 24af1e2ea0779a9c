// SPDX-License-Identifier: Apache-2.0
// Mirrors the store into the folder that identity and destination watch: one YAML file per object, replaced
// atomically. Never reads it; `.status` in there belongs to the readers.

import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { AnyObject } from './objects.ts';
import type { Store } from './store.ts';

export const registryFileName = (object: AnyObject): string =>
  `${object.kind.toLowerCase()}.${object.metadata.namespace ?? '_'}.${object.metadata.name}.yaml`;

/** Writes what is there and then every change, before whoever made it goes on. Returns what ends it. */
export function mirrorStore(store: Store, folder: string): () => void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const write = (object: AnyObject): void => {
    const file = registryFileName(object);
    const temporary = join(folder, `.${file}.new`);
    writeFileSync(temporary, stringify(object, { aliasDuplicateObjects: false }), { mode: 0o600 });
    renameSync(temporary, join(folder, file));
  };
  for (const object of store.all()) write(object);
  return store.subscribe(({ object, removed }) => {
    if (removed) rmSync(join(folder, registryFileName(object)), { force: true });
    else write(object);
  });
}
