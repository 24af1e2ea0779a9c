// SPDX-License-Identifier: Apache-2.0
// Writes the workers' access log lines to the agent's standard output, one piece at a time and without waiting for it
// on this thread. A worker has one batch here at most and hears when it is done: what nobody reads waits in the workers,
// which have a limit for it (agent/proxy/access-log/lines.ts).

import { write } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { errnoName } from '#lib/core/errors.ts';

const STDOUT = 1;
/** Somebody has made the pipe one that does not wait: it is full. */
const FULL_PAUSE_MS = 20;

export interface AccessLogOutput {
  /** Takes a batch; `done` when it is written, or cannot be. */
  take(pieces: readonly string[], done: () => void): void;
  /** Pieces of some lines that could not be written, for the metrics. */
  readonly lost: number;
}

export function createAccessLogOutput(
  writeSome: (bytes: Buffer) => Promise<number> = writeStdout,
): AccessLogOutput {
  const queue: { readonly pieces: readonly string[]; readonly done: () => void }[] = [];
  let writing = false;
  let lost = 0;

  const writeAll = async (piece: string): Promise<void> => {
    let rest = Buffer.from(piece);
    while (rest.length > 0) {
      try {
        rest = rest.subarray(await writeSome(rest));
      } catch (error) {
        if (errnoName(error) !== 'EAGAIN') {
          // Nobody is there to read; nor is there anybody to tell.
          lost++;
          return;
        }
        await sleep(FULL_PAUSE_MS);
      }
    }
  };
  const run = async (): Promise<void> => {
    writing = true;
    for (let batch = queue.shift(); batch !== undefined; batch = queue.shift()) {
      for (const piece of batch.pieces) await writeAll(piece);
      batch.done();
    }
    writing = false;
  };

  return {
    take(pieces, done) {
      queue.push({ pieces, done });
      if (!writing) void run();
    },
    get lost() {
      return lost;
    },
  };
}

const writeFile = promisify(write);

async function writeStdout(bytes: Buffer): Promise<number> {
  const { bytesWritten } = await writeFile(STDOUT, bytes, 0, bytes.length, null);
  return bytesWritten;
}
