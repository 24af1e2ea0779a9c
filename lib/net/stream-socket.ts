// SPDX-License-Identifier: Apache-2.0
// What a `net.Socket` and a `PlainSocket` have in common: enough for codecs, for bytes that only pass, and for who keeps
// or counts connections.

export interface StreamSocket {
  readonly destroyed: boolean;
  /** Why it was destroyed, if that was an error. */
  readonly errored: Error | null;
  readonly readableEnded: boolean;
  /** May be written to: neither destroyed nor ended. */
  readonly writable: boolean;
  readonly writableEnded: boolean;
  readonly writableLength: number;
  readonly writableNeedDrain: boolean;
  readonly writableHighWaterMark: number;
  /** Undefined once it is closed. */
  readonly localAddress?: string | undefined;
  readonly localPort?: number | undefined;
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  on(event: 'close' | 'connect' | 'drain' | 'end', listener: () => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  off(event: 'close' | 'connect' | 'drain' | 'end', listener: () => void): unknown;
  pause(): unknown;
  resume(): unknown;
  write(bytes: Uint8Array, done?: () => void): boolean;
  end(): unknown;
  destroy(error?: Error): unknown;
  setKeepAlive(enable: true, afterMs: number): unknown;
}
