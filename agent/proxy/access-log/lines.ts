// SPDX-License-Identifier: Apache-2.0
// Lines of the access log of one worker: gathered for a moment, cut into pieces that a pipe takes in one go, and given
// to the control thread, which writes them (agent/node/access-log-output.ts). One batch is on its way at a time; what
// comes meanwhile waits up to a limit, and what comes then is counted and left out: a log that nobody reads fast enough
// must not hold up requests.

import type { Clock, Timer } from '#lib/core/clock.ts';

/** How long a line may wait for others. */
const GATHER_MS = 100;
/** So much is sent without waiting for more. */
const BATCH_BYTES = 32_768;
/** Lines that wait while a batch is being written. */
export const WAITING_BYTES_MAX = 262_144;
/** What a pipe takes without mixing it with others' lines (PIPE_BUF). */
const PIECE_BYTES = 4_096;

export interface AccessLogOptions {
  readonly send: (pieces: readonly string[]) => void;
  readonly clock: Clock;
}

export class AccessLog {
  readonly #options: AccessLogOptions;
  #lines: string[] = [];
  #bytes = 0;
  #sending = false;
  #timer: Timer | null = null;

  constructor(options: AccessLogOptions) {
    this.#options = options;
  }

  wallMs(): number {
    return this.#options.clock.wallMs();
  }

  nowMs(): number {
    return this.#options.clock.nowMs();
  }

  /** `line` ends with a line feed; false: there was no room. */
  add(line: string): boolean {
    const bytes = Buffer.byteLength(line);
    if (this.#bytes + bytes > WAITING_BYTES_MAX) return false;
    this.#lines.push(line);
    this.#bytes += bytes;
    if (this.#sending) return true;
    if (this.#bytes >= BATCH_BYTES) this.flush();
    else this.#timer ??= this.#options.clock.after(GATHER_MS, () => this.flush());
    return true;
  }

  /** The batch was written, or lost. */
  written(): void {
    this.#sending = false;
    this.flush();
  }

  flush(): void {
    this.#timer?.cancel();
    this.#timer = null;
    if (this.#sending || this.#lines.length === 0) return;
    const pieces = inPieces(this.#lines);
    this.#lines = [];
    this.#bytes = 0;
    this.#sending = true;
    this.#options.send(pieces);
  }
}

/** Whole lines together, as many as fit. */
function inPieces(lines: readonly string[]): string[] {
  const pieces: string[] = [];
  let piece = '';
  let size = 0;
  for (const line of lines) {
    const bytes = Buffer.byteLength(line);
    if (size > 0 && size + bytes > PIECE_BYTES) {
      pieces.push(piece);
      piece = '';
      size = 0;
    }
    piece += line;
    size += bytes;
  }
  pieces.push(piece);
  return pieces;
}
