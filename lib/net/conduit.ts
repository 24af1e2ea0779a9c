// SPDX-License-Identifier: Apache-2.0
// Moves bytes from one TCP socket to another inside the kernel (splice(2) through a pipe), for bulk that nobody looks at:
// the pages change hands and nothing is copied. One pipe per thread, empty between two calls. Linux only, as all of this.

import type { Readiness } from './readiness.ts';
import { bindInt, checked, EAGAIN, EINTR, fcntl, stableBytes } from './native.ts';

const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const F_SETPIPE_SZ = 1031;
const SPLICE_F_MOVE = 1;
const SPLICE_F_NONBLOCK = 2;
const FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
/** What moves at once. */
export const CONDUIT_BYTES = 262_144;

const read = bindInt<[fd: number, into: Uint8Array, length: number]>(
  'long read(int fd, void *into, unsigned long length)',
);
const pipe2 = bindInt<[ends: Uint8Array, flags: number]>('int pipe2(void *ends, int flags)');
const splice = bindInt<[from: number, fromAt: null, to: number, toAt: null, length: number, flags: number]>(
  'long splice(int from, void *fromAt, int to, void *toAt, unsigned long length, unsigned int flags)',
);

export class Conduit {
  /** The descriptors of its pipe. */
  readonly ends: readonly [out: number, into: number];
  /** Of bytes that the other socket did not take. */
  readonly #rest = stableBytes(CONDUIT_BYTES);

  /** Throws MeshError. */
  constructor(readiness: Pick<Readiness, 'keep' | 'closeDescriptor'>) {
    const ends = stableBytes(8);
    checked('pipe2', pipe2(ends, O_NONBLOCK | O_CLOEXEC), 'moving bytes between sockets');
    this.ends = [ends.readInt32LE(0), ends.readInt32LE(4)];
    try {
      for (const fd of this.ends) readiness.keep(fd);
    } catch (error) {
      for (const fd of this.ends) readiness.closeDescriptor(fd);
      throw error;
    }
    // Where it is not allowed the pipe is smaller, and so is what moves at once.
    fcntl(this.#in, F_SETPIPE_SZ, CONDUIT_BYTES);
  }

  /** Empties the pipe. */
  discard(): void {
    let got: number;
    do got = read(this.#out, this.#rest, CONDUIT_BYTES);
    while (got > 0 || got === -EINTR);
  }

  get #out(): number {
    return this.ends[0];
  }

  get #in(): number {
    return this.ends[1];
  }

  /** Takes bytes from a socket that does not block: how many, 0 at its end, or -errno. `give` has to follow. */
  take(from: number): number {
    let answer: number;
    do answer = splice(from, null, this.#in, null, CONDUIT_BYTES, FLAGS);
    while (answer === -EINTR);
    return answer;
  }

  /**
   * Gives `length` of them to a socket: how many that took, and then `rest` has to follow unless it was all; or -errno,
   * and `discard`, since some may have left.
   */
  give(to: number, length: number): number {
    let given = 0;
    while (given < length) {
      const answer = splice(this.#out, null, to, null, length - given, FLAGS);
      if (answer > 0) given += answer;
      else if (answer === -EAGAIN || answer === 0) break;
      else if (answer !== -EINTR) return answer;
    }
    return given;
  }

  /** What was not given: a copy, `length` bytes long. */
  rest(length: number): Buffer {
    const bytes = Buffer.allocUnsafeSlow(length);
    let at = 0;
    while (at < length) {
      const got = read(this.#out, this.#rest, length - at);
      if (got === -EINTR) continue;
      checked('read', got, 'moving bytes between sockets');
      this.#rest.copy(bytes, at, 0, got);
      at += got;
    }
    return bytes;
  }
}
