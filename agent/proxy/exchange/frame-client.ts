// SPDX-License-Identifier: Apache-2.0
// For tests: an HTTP/2 client that sends exactly the frames that it is given, and keeps those that it gets.

import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { FLAG_ACK, FRAME_GOAWAY, FRAME_PING, FRAME_RST_STREAM, FRAME_SETTINGS } from '#lib/http2/codes.ts';

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

/** POST / http shop, by index of the static table but for the host. */
export const POST = Buffer.from([0x83, 0x86, 0x84, 0x01, 4, ...Buffer.from('shop')]);

export function frame(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

export function number32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function setting(id: number, value: number): Buffer {
  return frame(FRAME_SETTINGS, 0, 0, Buffer.concat([Buffer.from([0, id]), number32(value)]));
}

/** A client that sends exactly these frames. */
export class FrameClient {
  readonly frames: Frame[] = [];
  closed = false;
  /** Answers to PING so far. */
  pongs = 0;
  /** False: those that come meanwhile are never answered. */
  answersPings = true;
  readonly #socket: Socket;
  #bytes = Buffer.alloc(0);
  #changed: () => void = () => undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      this.#changed();
    });
    socket.on('data', (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      for (;;) {
        if (this.#bytes.length < 9) break;
        const end = 9 + this.#bytes.readUIntBE(0, 3);
        if (this.#bytes.length < end) break;
        const [, , , type = 0, flags = 0] = this.#bytes;
        const seen = {
          type,
          flags,
          stream: this.#bytes.readUInt32BE(5),
          payload: this.#bytes.subarray(9, end),
        };
        this.#bytes = this.#bytes.subarray(end);
        this.frames.push(seen);
        if (type === FRAME_PING && (flags & FLAG_ACK) !== 0) this.pongs++;
        if (type === FRAME_PING && (flags & FLAG_ACK) === 0 && this.answersPings)
          this.send(frame(FRAME_PING, FLAG_ACK, 0, seen.payload));
      }
      this.#changed();
    });
  }

  send(...frames: Buffer[]): void {
    this.#socket.write(Buffer.concat(frames));
  }

  count(type: number, stream?: number): number {
    return this.frames.filter((one) => one.type === type && (stream === undefined || one.stream === stream))
      .length;
  }

  /** Waits for a frame; what comes first is looked at first. */
  async frame(wanted: (frame: Frame) => boolean): Promise<Frame> {
    await this.until(() => this.frames.some(wanted));
    return this.frames.find(wanted) as Frame;
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      assert.ok(!this.closed, 'the connection was closed before');
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }

  async goAway(code: number): Promise<void> {
    const { payload } = await this.frame(({ type }) => type === FRAME_GOAWAY);
    assert.equal(payload.readUInt32BE(4), code);
  }

  /** A stream was reset with the code. */
  async reset(stream: number, code: number): Promise<void> {
    const { payload } = await this.frame((one) => one.type === FRAME_RST_STREAM && one.stream === stream);
    assert.equal(payload.readUInt32BE(0), code);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  destroy(): void {
    this.#socket.destroy();
  }
}
