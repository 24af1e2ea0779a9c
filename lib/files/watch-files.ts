// SPDX-License-Identifier: Apache-2.0
// Reads small text files that belong together again and again, and tells when any of them changed. By reading, not by
// inotify: Kubernetes replaces mounted files through symbolic links, of which a watch on a file learns nothing.

import { readFile, readlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errnoName, MeshError } from '#lib/core/errors.ts';

const BYTES_MAX = 1024 * 1024;

export type FileTexts<Names extends string> = Readonly<Record<Names, string>>;

export async function readTexts<Names extends string>(
  files: Readonly<Record<Names, string>>,
): Promise<FileTexts<Names>> {
  const names = Object.keys(files) as Names[];
  for (let attempt = 1; ; attempt++) {
    const before = await mountedVersions(names.map((name) => files[name]));
    const entries = await Promise.all(
      names.map(async (name) => [name, await readText(files[name])] as const),
    );
    const after = await mountedVersions(names.map((name) => files[name]));
    if (before === after) return Object.fromEntries(entries) as FileTexts<Names>;
    // Swapped while they were read: a certificate would come with another's key.
    if (attempt === ATTEMPTS_MAX)
      throw new MeshError(
        'MESH_CONFIG_INVALID',
        `${names.map((name) => files[name]).join(' and ')} were replaced each of ${attempt} times that they were read; replace them less often`,
      );
  }
}

const ATTEMPTS_MAX = 5;

/** Where the links point by which Kubernetes swaps the files of a mounted Secret or ConfigMap together. */
async function mountedVersions(paths: readonly string[]): Promise<string> {
  const folders = [...new Set(paths.map((path) => dirname(path)))];
  const targets = await Promise.all(
    folders.map((folder) =>
      readlink(`${folder}/..data`).catch((error: unknown) => errnoName(error) ?? String(error)),
    ),
  );
  return targets.join('\n');
}

/** The text of a small file, with an error that names it. */
export async function readText(path: string): Promise<string> {
  let content: Buffer;
  try {
    content = await readFile(path);
  } catch (error) {
    throw MeshError.from(error, 'MESH_CONFIG_INVALID', `cannot read ${path}`);
  }
  if (content.length > BYTES_MAX)
    throw new MeshError('MESH_LIMIT', `${path} has ${content.length} bytes, at most ${BYTES_MAX} are read`);
  return content.toString();
}

export interface WatchFilesOptions<Names extends string> {
  readonly files: Readonly<Record<Names, string>>;
  /** What was read before watching began. */
  readonly known: FileTexts<Names>;
  readonly clock: Clock;
  readonly intervalMs: number;
  /** Called with all texts when one differs from the last call's; a rejection goes to `onError` and is final. */
  readonly onChange: (texts: FileTexts<Names>) => void | Promise<void>;
  /** Files unreadable, or `onChange` failed; told once per kind of failure in a row. */
  readonly onError: (error: unknown) => void;
}

export interface FileWatch {
  /** Looks now instead of at the next interval. */
  check(): Promise<void>;
  close(): void;
}

export function watchFiles<Names extends string>(options: WatchFilesOptions<Names>): FileWatch {
  let last = options.known;
  let lastError = '';
  let closed = false;
  let timer: Timer | undefined;
  const check = async (): Promise<void> => {
    try {
      const texts = await readTexts(options.files);
      if (closed) return;
      const names = Object.keys(options.files) as Names[];
      if (names.some((name) => texts[name] !== last[name])) {
        last = texts;
        await options.onChange(texts);
      }
      lastError = '';
    } catch (error) {
      if (String(error) !== lastError) options.onError(error);
      lastError = String(error);
    }
  };
  const schedule = (): void => {
    timer = options.clock.after(options.intervalMs, () => {
      void check().then(() => {
        if (!closed) schedule();
      });
    });
  };
  schedule();
  return {
    check,
    close() {
      closed = true;
      timer?.cancel();
    },
  };
}
