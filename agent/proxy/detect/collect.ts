// SPDX-License-Identifier: Apache-2.0
// Reads the first bytes of a connection until somebody can decide on them, within limits of time and size. What was
// read is handed on as a buffer of its own; the source is paused afterwards.

import type { Socket } from 'node:net';
import type { Clock, Timer } from '#lib/core/clock.ts';
import type { ByteSource } from '../exchange/byte-source.ts';

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
  source: ByteSource,
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
 * Shows first bytes without taking them, or undefined if the connection has failed; once, unless the returned function
 * is called before. Null: it cannot be done, nothing happens.
 */
export type Peek = (socket: Socket, look: (bytes: Buffer | undefined) => void) => (() => void) | null;

/**
 * As collectBytes, and if what comes first decides already, it is left in the socket (`unread`): for a successor that
 * had better read it itself.
 */
export function lookAhead(
  source: ByteSource,
  peek: Peek,
  options: CollectOptions,
  done: (outcome: Collected, bytes: Buffer, unread: boolean) => void,
): void {
  const { socket } = source;
  const { clock, timeoutMs } = options;
  const begunMs = clock.nowMs();
  const read = (): void => {
    const restMs = Math.max(timeoutMs - (clock.nowMs() - begunMs), 0);
    collectBytes(source, null, { ...options, timeoutMs: restMs }, (outcome, bytes) =>
      done(outcome, bytes, false),
    );
  };
  const stop = socket.destroyed
    ? null
    : peek(socket, (bytes) => {
        settle();
        if (bytes === undefined) {
          socket.destroy();
          done('closed', NOTHING, false);
        } else if (bytes.length > 0 && options.decide(bytes)) done('decided', bytes, true);
        else read();
      });
  if (stop === null) {
    read();
    return;
  }
  const end = (outcome: Collected): void => {
    settle();
    stop();
    done(outcome, NOTHING, false);
  };
  const onClose = (): void => end('closed');
  const timer = clock.after(timeoutMs, () => end('timeout'));
  const settle = (): void => {
    timer.cancel();
    socket.off('close', onClose);
  };
  socket.on('close', onClose);
}
