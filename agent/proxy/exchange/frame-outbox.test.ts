// SPDX-License-Identifier: Apache-2.0
// What is gathered leaves in order and in one write, in buffers that are used again.

import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { FrameOutbox } from './frame-outbox.ts';
import { Flusher } from './outbox.ts';

/** Takes everything at once, or nothing. */
class TakingSocket {
  readonly destroyed = false;
  writableLength = 0;
  readonly texts: string[] = [];
  readonly memory = new Set<ArrayBufferLike>();

  write(chunk: Buffer): void {
    this.texts.push(chunk.toString('latin1'));
    this.memory.add(chunk.buffer);
  }
}

const outboxOf = (socket: TakingSocket): FrameOutbox =>
  new FrameOutbox(socket as unknown as Socket, false, new Flusher());

function put(out: FrameOutbox, text: string): void {
  out.room(text.length);
  out.at += out.buffer.write(text, out.at, 'latin1');
}

test('a small buffer becomes a large one, and a large one is written when it is full', () => {
  const socket = new TakingSocket();
  const out = outboxOf(socket);
  const parts = [
    'a'.repeat(3_000),
    'b'.repeat(3_000),
    'c'.repeat(60_000),
    'd'.repeat(10),
    'e'.repeat(100_000),
  ];
  for (const part of parts) put(out, part);
  assert.deepEqual(
    socket.texts.map((text) => text.length),
    [6_000, 60_010],
  );
  out.flush();
  assert.equal(socket.texts.join(''), parts.join(''));
  assert.equal(socket.texts.length, 3);
});

test('many connections that write in the same turn make no buffers after the first turn', () => {
  const sockets = Array.from({ length: 200 }, () => new TakingSocket());
  const outboxes = sockets.map(outboxOf);
  for (let turn = 0; turn < 20; turn++) {
    for (const out of outboxes) put(out, `answer ${turn}`);
    for (const out of outboxes) out.flush();
  }
  const memory = new Set(sockets.flatMap((socket) => [...socket.memory]));
  assert.ok(memory.size <= sockets.length, `${memory.size} buffers`);
});

test('a buffer that the socket has not let go is not used again', () => {
  const slow = new TakingSocket();
  slow.writableLength = 1;
  const out = outboxOf(slow);
  put(out, 'waits');
  out.flush();
  put(out, 'later');
  out.flush();
  assert.equal(slow.memory.size, 2);
});
