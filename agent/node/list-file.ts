// SPDX-License-Identifier: Apache-2.0
// A small file that is always replaced as a whole. Written off this thread: on a busy disk an fsync takes tens of
// milliseconds, and a rename waits for the journal of the file system as long, whoever it is for.

import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

export interface ListFileOptions {
  readonly path: string;
  /** Must outlive a power cut. */
  readonly synced: boolean;
  /** Names files beside it, which no other agent uses: two may write for a moment. */
  readonly unique: string;
  /** What to write now; undefined: nothing. */
  readonly text: () => string | undefined;
  /** It is written again when asked to. */
  readonly failed: (error: unknown) => void;
}

export class ListFile {
  readonly #options: ListFileOptions;
  #dirty = false;
  /** The file beside, to which a write under way goes. */
  #beside: string | undefined;
  #writes = 0;

  constructor(options: ListFileOptions) {
    this.#options = options;
  }

  /** There is something new to write. */
  changed(): void {
    this.#dirty = true;
  }

  /** Begins to write what is new; what comes meanwhile is written afterwards. */
  async write(): Promise<void> {
    while (this.#dirty && this.#beside === undefined) {
      const text = this.#options.text();
      if (text === undefined) return;
      this.#dirty = false;
      if (!(await this.#writeOnce(text))) return;
    }
  }

  async #writeOnce(text: string): Promise<boolean> {
    const { path, synced, failed } = this.#options;
    const beside = this.#nextBeside();
    this.#beside = beside;
    try {
      const file = await open(beside, 'w', 0o600);
      try {
        await file.writeFile(text);
        if (synced) await file.sync();
      } finally {
        await file.close();
      }
      if (this.#beside !== beside) {
        rmSync(beside, { force: true });
        return false;
      }
      await rename(beside, path);
      if (synced) {
        const folder = await open(dirname(path));
        try {
          await folder.sync();
        } finally {
          await folder.close();
        }
      }
      return this.#beside === beside;
    } catch (error) {
      this.#discard(beside);
      // Else `flush` has taken the file away, having written something newer.
      if (this.#beside !== beside) return false;
      this.#dirty = true;
      failed(error);
      return false;
    } finally {
      if (this.#beside === beside) this.#beside = undefined;
    }
  }

  /** Writes on this thread what is outstanding or under way; nothing older comes after it. */
  flush(): void {
    const underWay = this.#beside;
    if (!this.#dirty && underWay === undefined) return;
    const { path, synced, text, failed } = this.#options;
    const now = text();
    if (now === undefined) return;
    this.#dirty = false;
    this.#beside = undefined;
    const beside = this.#nextBeside();
    try {
      // Either it is in its place already, or it never comes there.
      if (underWay !== undefined) rmSync(underWay, { force: true });
      const fd = openSync(beside, 'w', 0o600);
      try {
        writeFileSync(fd, now);
        if (synced) fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      renameSync(beside, path);
    } catch (error) {
      this.#discard(beside);
      this.#dirty = true;
      failed(error);
    }
  }

  #discard(beside: string): void {
    try {
      rmSync(beside, { force: true });
    } catch (error) {
      this.#options.failed(error);
    }
  }

  #nextBeside(): string {
    return `${this.#options.path}.${this.#options.unique}-${this.#writes++}.new`;
  }
}
