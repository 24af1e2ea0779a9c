// SPDX-License-Identifier: Apache-2.0
// An agent's counts outlive it: it leaves them in a file when another agent of the node takes the role over, again and
// again while it drains, and at its end. The next one shows them with its own, so that a scraper sees one series go on.
// A crash leaves nothing: counters begin anew then, which a scraper knows how to take.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import type { CountedSeries, Counts } from '#lib/metrics/counted-series.ts';
import { ListFile } from './list-file.ts';

/** Costs the control thread 20 ms with 10,000 series; what a scrape meanwhile does not see the next one does. */
const WRITE_EVERY_MS = 5_000;
/** Whoever has not written for this long has ended: its counts are taken for good. */
const ENDED_MS = 30_000;
const ENDING = '.json';

interface Left {
  readonly writtenAtMs: number;
  readonly counts: Counts;
}

export interface KeptCountsOptions {
  /** Gone after a reboot. */
  readonly folder: string;
  /** Names this agent among those of its node. */
  readonly instance: string;
  readonly registry: Pick<CountedSeries, 'counts' | 'takeCounts' | 'endOther'>;
  readonly clock: Clock;
  readonly log: Log;
}

export interface KeptCounts {
  /** Takes in what other agents have left since the last time; for the one that answers scrapers. */
  read(): void;
  /** Another one answers them from now on. */
  giveUp(): void;
  /** This one does again. */
  take(): void;
  /** Nothing is counted any more: leaves the last of it. */
  close(): void;
}

export function createKeptCounts({ folder, instance, registry, clock, log }: KeptCountsOptions): KeptCounts {
  const own = join(folder, `${instance}${ENDING}`);
  /** Files whose counts are shown, and which form of them: each is another file, moved to that name. */
  const shown = new Map<string, { readonly form: string; readonly writtenAtMs: number }>();
  let given = false;
  let timer: Timer | undefined;
  mkdirSync(folder, { recursive: true, mode: 0o700 });

  const ownFile = new ListFile({
    path: own,
    synced: false,
    unique: String(process.pid),
    text: () => JSON.stringify({ writtenAtMs: clock.wallMs(), counts: registry.counts() } satisfies Left),
    failed: (error) =>
      log.warn({ error: errorMessage(error) }, 'counts for the next agent cannot be written'),
  });
  const write = (): void => {
    ownFile.changed();
    ownFile.flush();
  };
  const writeAgain = (): void => {
    // Gone: the next one has taken them for good, and would count a second file twice.
    if (existsSync(own)) write();
  };
  const goOn = (): void => {
    timer = clock.after(WRITE_EVERY_MS, () => {
      writeAgain();
      goOn();
    });
  };
  const readOne = (file: string): void => {
    const path = join(folder, file);
    const { ino, mtimeMs } = statSync(path);
    const form = `${ino} ${mtimeMs}`;
    let known = shown.get(file);
    if (known?.form !== form) {
      const { writtenAtMs, counts } = JSON.parse(readFileSync(path, 'utf8')) as Left;
      registry.takeCounts(file, counts);
      known = { form, writtenAtMs };
      shown.set(file, known);
    }
    if (clock.wallMs() - known.writtenAtMs < ENDED_MS) return;
    rmSync(path);
    shown.delete(file);
    registry.endOther(file);
  };

  return {
    read() {
      if (given) return;
      for (const file of readdirSync(folder)) {
        if (!file.endsWith(ENDING) || file === `${instance}${ENDING}`) continue;
        try {
          readOne(file);
        } catch (error) {
          log.warn({ file, error: errorMessage(error) }, 'counts of an earlier agent cannot be read');
          rmSync(join(folder, file), { force: true });
        }
      }
    },
    giveUp() {
      if (given) return;
      given = true;
      write();
      goOn();
    },
    take() {
      given = false;
      timer?.cancel();
      rmSync(own, { force: true });
    },
    close() {
      timer?.cancel();
      if (given) writeAgain();
      else write();
    },
  };
}
