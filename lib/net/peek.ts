// SPDX-License-Identifier: Apache-2.0
// Looks at what has arrived on a socket and leaves it there, for whoever reads it then.

import koffi from 'koffi';
import { EAGAIN, MSG_DONTWAIT, MSG_PEEK, recv, stableBytes } from './native.ts';

export const PEEK_BYTES = 16_384;
const seen = stableBytes(PEEK_BYTES);

/**
 * Calls `look` once, in a turn of its own, after the descriptor has become readable: with what is there, up to 16 KiB,
 * nothing at the end, or undefined if the connection has failed. `done` is called as soon as the descriptor is no longer
 * needed, also when the returned function gives up. It must be a duplicate: whoever closes the socket meanwhile would
 * have its number given to another one.
 */
export function peekOnce(
  duplicate: number,
  done: (duplicate: number) => void,
  look: (bytes: Buffer | undefined) => void,
): () => void {
  let open = true;
  let wanted = true;
  const release = (): void => {
    if (!open) return;
    open = false;
    poll.close();
    done(duplicate);
  };
  const poll = koffi.node.poll(duplicate, { readable: true }, () => {
    if (!open) return;
    const length = recv(duplicate, seen, PEEK_BYTES, MSG_PEEK | MSG_DONTWAIT);
    if (length === -EAGAIN) return;
    release();
    const bytes = length < 0 ? undefined : Buffer.from(seen.subarray(0, length));
    // What is put off to the end of this turn (process.nextTick) would wait for the next one: the addon does not say
    // to Node.js that its callback is over.
    setImmediate(() => {
      if (wanted) look(bytes);
    });
  });
  return () => {
    wanted = false;
    release();
  };
}
