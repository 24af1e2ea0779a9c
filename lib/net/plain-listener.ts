// SPDX-License-Identifier: Apache-2.0
// Accepts TCP connections as descriptors, for whoever decides afterwards what shall be made of each.

import type { Clock } from '#lib/core/clock.ts';
import { bindInt, EAGAIN, ECONNABORTED, EINTR, SOCK_CLOEXEC, SOCK_NONBLOCK, syscallError } from './native.ts';
import { EPOLLIN, type Readiness, type Watched } from './readiness.ts';

/** In one turn of the event loop: connections that are there have theirs, too. */
const ACCEPTED_MAX = 32;
/** Without descriptors or memory there is no use in trying at once. */
const PAUSE_MS = 100;

const accept4 = bindInt<[fd: number, address: null, length: null, flags: number]>(
  'int accept4(int fd, void *address, void *length, int flags)',
);

export interface PlainListenerOptions {
  readonly readiness: Readiness;
  readonly clock: Clock;
  /** The descriptor of a connection is the callee's; it is kept for the case that the thread dies. */
  readonly accept: (fd: number) => void;
  /** It goes on after a pause. */
  readonly failed: (error: Error) => void;
}

export class PlainListener implements Watched {
  readonly fd: number;
  readonly #options: PlainListenerOptions;
  #number: number;
  #closed = false;

  /** `fd` listens, does not block, and is this object's from now on. Throws MeshError. */
  constructor(fd: number, options: PlainListenerOptions) {
    this.fd = fd;
    this.#options = options;
    options.readiness.keep(fd);
    this.#number = options.readiness.watch(this, EPOLLIN);
  }

  onReady(): void {
    const { readiness, accept, failed } = this.#options;
    for (let count = 0; count < ACCEPTED_MAX && !this.#closed; count++) {
      const fd = accept4(this.fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd === -EAGAIN) return;
      if (fd === -EINTR || fd === -ECONNABORTED) continue;
      if (fd < 0) {
        this.#pause();
        failed(syscallError('accept4', fd, 'accepting a connection'));
        return;
      }
      try {
        readiness.keep(fd);
      } catch (error) {
        readiness.closeDescriptor(fd);
        failed(error as Error);
        continue;
      }
      accept(fd);
    }
  }

  /** The socket lives on where it has another descriptor. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // Another descriptor of it keeps the kernel's part.
    this.#options.readiness.remove(this.#number);
    this.#options.readiness.closeDescriptor(this.fd);
  }

  #pause(): void {
    const { readiness, clock } = this.#options;
    readiness.remove(this.#number);
    clock.after(PAUSE_MS, () => {
      if (!this.#closed) this.#number = readiness.watch(this, EPOLLIN);
    });
  }
}
