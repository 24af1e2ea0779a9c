// SPDX-License-Identifier: Apache-2.0
// Writes frame headers and small frames (RFC 9113 6) into a given buffer at an offset; each function returns the
// position after what it wrote. The caller sees to it that there is room.

import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FLAG_END_STREAM,
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_GOAWAY,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_PING,
  FRAME_RST_STREAM,
  FRAME_SETTINGS,
  FRAME_WINDOW_UPDATE,
} from './codes.ts';
import { connectionPreface } from './frames.ts';

export const PING_FRAME_BYTES: number = FRAME_HEADER_BYTES + 8;
export const RESET_FRAME_BYTES: number = FRAME_HEADER_BYTES + 4;
export const WINDOW_UPDATE_FRAME_BYTES: number = FRAME_HEADER_BYTES + 4;
export const GOAWAY_FRAME_BYTES: number = FRAME_HEADER_BYTES + 8;

export function writeFrameHeader(
  out: Buffer,
  at: number,
  length: number,
  type: number,
  flags: number,
  stream: number,
): number {
  out[at] = length >>> 16;
  out[at + 1] = length >>> 8;
  out[at + 2] = length;
  out[at + 3] = type;
  out[at + 4] = flags;
  return writeUint32(out, at + 5, stream);
}

export function writePreface(out: Buffer, at: number): number {
  return at + connectionPreface.copy(out, at);
}

/** `settings`: identifier, value, identifier, value, … */
export function writeSettings(out: Buffer, at: number, settings: readonly number[]): number {
  let next = writeFrameHeader(out, at, settings.length * 3, FRAME_SETTINGS, 0, 0);
  for (let index = 0; index < settings.length; index += 2) {
    const id = settings[index] as number;
    out[next] = id >>> 8;
    out[next + 1] = id;
    next = writeUint32(out, next + 2, settings[index + 1] as number);
  }
  return next;
}

export function writeSettingsAck(out: Buffer, at: number): number {
  return writeFrameHeader(out, at, 0, FRAME_SETTINGS, FLAG_ACK, 0);
}

export function writeWindowUpdate(out: Buffer, at: number, stream: number, increment: number): number {
  return writeUint32(out, writeFrameHeader(out, at, 4, FRAME_WINDOW_UPDATE, 0, stream), increment);
}

/** `high` and `low` as `FrameHandler.onPing` gave them. */
export function writePing(out: Buffer, at: number, ack: boolean, high: number, low: number): number {
  const next = writeFrameHeader(out, at, 8, FRAME_PING, ack ? FLAG_ACK : 0, 0);
  return writeUint32(out, writeUint32(out, next, high), low);
}

export function writeReset(out: Buffer, at: number, stream: number, code: number): number {
  return writeUint32(out, writeFrameHeader(out, at, 4, FRAME_RST_STREAM, 0, stream), code);
}

export function writeGoAway(out: Buffer, at: number, lastStream: number, code: number): number {
  return writeUint32(
    out,
    writeUint32(out, writeFrameHeader(out, at, 8, FRAME_GOAWAY, 0, 0), lastStream),
    code,
  );
}

export function writeDataHeader(
  out: Buffer,
  at: number,
  length: number,
  stream: number,
  endStream: boolean,
): number {
  return writeFrameHeader(out, at, length, FRAME_DATA, endStream ? FLAG_END_STREAM : 0, stream);
}

/**
 * Puts frames around a header block that lies at `at + FRAME_HEADER_BYTES`: HEADERS, and CONTINUATION if it is longer
 * than a frame of the peer may be, which needs FRAME_HEADER_BYTES more of room for each.
 */
export function frameHeaderBlock(
  out: Buffer,
  at: number,
  blockBytes: number,
  stream: number,
  endStream: boolean,
  frameSizeMax: number,
): number {
  const streamFlag = endStream ? FLAG_END_STREAM : 0;
  if (blockBytes <= frameSizeMax) {
    writeFrameHeader(out, at, blockBytes, FRAME_HEADERS, FLAG_END_HEADERS | streamFlag, stream);
    return at + FRAME_HEADER_BYTES + blockBytes;
  }
  const frames = Math.ceil(blockBytes / frameSizeMax);
  const block = at + FRAME_HEADER_BYTES;
  const end = at + frames * FRAME_HEADER_BYTES + blockBytes;
  // From the last piece to the first, so that none is overwritten before it moved.
  for (let index = frames - 1; index > 0; index--) {
    const piece = block + index * frameSizeMax;
    const pieceBytes = Math.min(frameSizeMax, blockBytes - index * frameSizeMax);
    const frame = at + index * (FRAME_HEADER_BYTES + frameSizeMax);
    out.copyWithin(frame + FRAME_HEADER_BYTES, piece, piece + pieceBytes);
    const flags = index === frames - 1 ? FLAG_END_HEADERS : 0;
    writeFrameHeader(out, frame, pieceBytes, FRAME_CONTINUATION, flags, stream);
  }
  writeFrameHeader(out, at, frameSizeMax, FRAME_HEADERS, streamFlag, stream);
  return end;
}

function writeUint32(out: Buffer, at: number, value: number): number {
  out[at] = value >>> 24;
  out[at + 1] = value >>> 16;
  out[at + 2] = value >>> 8;
  out[at + 3] = value;
  return at + 4;
}
