// SPDX-License-Identifier: Apache-2.0
// Reads the first bytes of a connection until somebody can decide on them, within limits of time and size. What was
// read is handed on as a buffer of its own; the source is paused afterwards.

import type { Clock, Timer } from '#lib/core/clock.ts';
import type { PlainSocket } from '#lib/net/plain-socket.ts';
import type { TcpSource } from '../exchange/byte-source.ts';

export type Collected =
  | 'decided'
  /** The peer closed its side; what it sent before is there. */
  | 'end'
  /** Reset, or closed by somebody here. */
  | 'closed'
  | 'timeout'
  | 'full';

export interface CollectOptions {
  readonly bytesMax: number;
  readonly timeoutMs: number;
  readonly clock: Clock;
  /** Looks at all bytes so far. */
  readonly decide: (bytes: Buffer) => boolean;
}

const NOTHING = Buffer.alloc(0);

/** `done` is called once; also synchronously if `first` decides already. */
export function collectBytes(
  source: TcpSource,
  first: Buffer | null,
  options: CollectOptions,
  done: (outcome: Collected, bytes: Buffer) => void,
): void {
  const { socket } = source;
  let bytes = first ?? NOTHING;
  if (bytes.length > 0 && options.decide(bytes)) {
    done('decided', bytes);
    return;
  }
  const finish = (outcome: Collected): void => {
    timer.cancel();
    source.onBytes = null;
    socket.off('end', onEnd);
    socket.off('close', onClose);
    socket.pause();
    done(outcome, bytes);
  };
  const onEnd = (): void => finish('end');
  const onClose = (): void => finish('closed');
  const timer: Timer = options.clock.after(options.timeoutMs, () => finish('timeout'));
  source.onBytes = (buffer, length) => {
    const piece = buffer.subarray(0, length);
    bytes = bytes.length === 0 ? Buffer.from(piece) : Buffer.concat([bytes, piece]);
    if (options.decide(bytes)) finish('decided');
    else if (bytes.length >= options.bytesMax) finish('full');
  };
  socket.on('end', onEnd);
  socket.on('close', onClose);
  if (socket.destroyed) finish('closed');
  else if (socket.readableEnded) finish('end');
  else socket.resume();
}

/**
 * As collectBytes, and if what comes first decides already, it is left in the socket (`unread`): for a successor that
 * had better read it itself. `bytes` are valid until `done` returns then.
 */
export function lookAhead(
  socket: PlainSocket,
  options: CollectOptions,
  done: (outcome: Collected, bytes: Buffer, unread: boolean) => void,
): void {
  const { clock, timeoutMs } = options;
  const begunMs = clock.nowMs();
  const settle = (): void => {
    timer.cancel();
    socket.pause();
    socket.off('close', onClose);
  };
  const onClose = (): void => {
    settle();
    done('closed', NOTHING, false);
  };
  const timer = clock.after(timeoutMs, () => {
    settle();
    done('timeout', NOTHING, false);
  });
  socket.on('close', onClose);
  if (socket.destroyed) {
    onClose();
    return;
  }
  socket.peek((bytes) => {
    settle();
    if (bytes.length > 0 && options.decide(bytes)) {
      done('decided', bytes, true);
      return;
    }
    const restMs = Math.max(timeoutMs - (clock.nowMs() - begunMs), 0);
    collectBytes(socket, null, { ...options, timeoutMs: restMs }, (outcome, read) =>
      done(outcome, read, false),
    );
  });
}
