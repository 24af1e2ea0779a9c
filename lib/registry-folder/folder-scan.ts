// SPDX-License-Identifier: Apache-2.0
// Reads the manifests of a folder again and again, only the files that changed. A bad edit keeps the last good
// objects of its file. No watching and no timers: folder-registry.ts says when to read.

import { type BigIntStats, statSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoName, errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import { type AnyResource, keyOf, keyText } from '#lib/registry/model.ts';
import { parseManifests } from './manifests.ts';

/** A file that was written less than this ago may still be in the middle of being written. */
const FRESH_MS = 100;
const FILES_MAX = 50_000;

/** Of a manifest. The text as written would be more than all that is made of it. */
interface KnownObject {
  readonly resource: AnyResource;
  readonly source: string;
}

interface KnownFile {
  readonly signature: string;
  readonly manifests: readonly KnownObject[];
  readonly problems: readonly string[];
}

export interface FolderObjects {
  /** By `kind/cluster/namespace/name`. */
  readonly objects: ReadonlyMap<string, AnyResource>;
  readonly problems: readonly string[];
  /** Something may still be changing: read once more after a moment. */
  readonly again: boolean;
}

export interface FolderScanOptions {
  readonly folder: string;
  readonly cluster: string;
  readonly wallMs: () => number;
  readonly log: Log;
}

export class FolderScan {
  readonly #options: FolderScanOptions;
  #files = new Map<string, KnownFile>();
  /** Problems told already, so that each is logged once. */
  #told = new Set<string>();
  #again = false;

  constructor(options: FolderScanOptions) {
    this.#options = options;
  }

  /** Undefined if the folder cannot be read: what was known stays. */
  async read(): Promise<FolderObjects | undefined> {
    const { folder, log } = this.#options;
    this.#again = false;
    let names: string[];
    try {
      names = (await readdir(folder)).filter((name) => /^[^.].*\.(ya?ml|json)$/.test(name)).sort();
    } catch (error) {
      this.#tell(
        log,
        `${folder}: cannot be read (${errorMessage(error)}); what was known of it stays in force`,
      );
      return undefined;
    }
    if (names.length > FILES_MAX) {
      this.#tell(log, `${folder}: more than ${FILES_MAX} manifests; the rest is not read`);
      names.length = FILES_MAX;
    }
    const files = new Map<string, KnownFile>();
    for (const name of names) {
      const file = await this.#readFile(name);
      if (file !== undefined) files.set(name, file);
    }
    this.#files = files;
    return this.#join();
  }

  async #readFile(name: string): Promise<KnownFile | undefined> {
    const path = join(this.#options.folder, name);
    const known = this.#files.get(name);
    let text: string;
    let status: BigIntStats;
    try {
      // At once: it is a few microseconds, and a promise for each of thousands of files many times as much.
      status = statSync(path, { bigint: true });
      const signature = `${status.ino}:${status.size}:${status.mtimeNs}:${status.ctimeNs}`;
      const fresh = this.#isFresh(status);
      if (fresh) this.#again = true;
      if (known?.signature === signature && !fresh) return known;
      text = await readFile(path, 'utf8');
      const found = parseManifests(text, name, {
        cluster: this.#options.cluster,
      });
      const { problems, warnings } = found;
      const manifests = found.manifests.map(({ resource, source }) => ({ resource, source }));
      if (known === undefined)
        for (const warning of warnings) this.#options.log.info({ warning }, 'manifests');
      if (problems.length > 0) return { signature, manifests: known?.manifests ?? [], problems };
      // Truncated and not yet written again by an editor: wait before believing that objects are gone.
      if (fresh && known !== undefined && lacksSome(known.manifests, manifests))
        return { ...known, signature: '' };
      return { signature, manifests, problems: [] };
    } catch (error) {
      if (errnoName(error) === 'ENOENT') return undefined;
      const problem = `${name}: cannot be read (${errorMessage(error)}); its last good objects stay`;
      return { signature: '', manifests: known?.manifests ?? [], problems: [problem] };
    }
  }

  #isFresh(status: BigIntStats): boolean {
    const ageMs = this.#options.wallMs() - Number(status.mtimeMs);
    return ageMs >= 0 && ageMs < FRESH_MS;
  }

  #join(): FolderObjects {
    const objects = new Map<string, AnyResource>();
    const sources = new Map<string, string>();
    const problems: string[] = [];
    for (const file of this.#files.values()) {
      problems.push(...file.problems);
      for (const { resource, source } of file.manifests) {
        const key = `${resource.kind}/${keyText(keyOf(resource))}`;
        const first = sources.get(key);
        if (first === undefined) {
          objects.set(key, resource);
          sources.set(key, source);
        } else
          problems.push(
            `${source}: ${resource.kind} ${resource.metadata.name} stands in ${first} too, which is used; remove one of them`,
          );
      }
    }
    for (const problem of problems) this.#tell(this.#options.log, problem);
    this.#told = new Set(problems);
    return { objects, problems, again: this.#again };
  }

  #tell(log: Log, problem: string): void {
    if (this.#told.has(problem)) return;
    this.#told.add(problem);
    log.error({ folder: this.#options.folder, problem }, 'manifests');
  }
}

function lacksSome(before: readonly KnownObject[], now: readonly KnownObject[]): boolean {
  const keys = new Set(now.map(({ resource }) => `${resource.kind}/${keyText(keyOf(resource))}`));
  return before.some(({ resource }) => !keys.has(`${resource.kind}/${keyText(keyOf(resource))}`));
}
