// SPDX-License-Identifier: Apache-2.0
// For tests: what a `FrameReader` tells, as lines of text. Parts of one DATA frame are joined, so that the lines do not
// depend on how the bytes were split.

import { NO_ERROR } from './codes.ts';
import type { FrameHandler } from './frames.ts';

export class FrameLog implements FrameHandler {
  readonly lines: string[] = [];
  /** Answered by every method. */
  answer = NO_ERROR;
  #data = '';
  #dataStream = 0;
  #flowBytes = 0;

  onData(
    stream: number,
    buffer: Buffer,
    start: number,
    end: number,
    flow: number,
    endStream: boolean,
  ): number {
    if (this.#dataStream !== stream) this.#flush();
    this.#dataStream = stream;
    this.#data += buffer.toString('latin1', start, end);
    this.#flowBytes += flow;
    if (endStream) this.#flush(' end');
    return this.answer;
  }

  onHeaders(
    stream: number,
    endStream: boolean,
    streamError: number,
    buffer: Buffer,
    start: number,
    end: number,
  ): number {
    const error = streamError === NO_ERROR ? '' : ` error ${streamError}`;
    return this.#add(
      `headers ${stream} ${buffer.toString('latin1', start, end)}${endStream ? ' end' : ''}${error}`,
    );
  }

  onReset(stream: number, code: number): number {
    return this.#add(`reset ${stream} ${code}`);
  }

  onSetting(id: number, value: number): number {
    return this.#add(`setting ${id}=${value}`);
  }

  onSettingsEnd(): number {
    return this.#add('settings');
  }

  onSettingsAck(): number {
    return this.#add('settings ack');
  }

  onPing(ack: boolean, high: number, low: number): number {
    return this.#add(`ping${ack ? ' ack' : ''} ${high} ${low}`);
  }

  onGoAway(lastStream: number, code: number): number {
    return this.#add(`goaway ${lastStream} ${code}`);
  }

  onWindowUpdate(stream: number, increment: number): number {
    return this.#add(`window ${stream} ${increment}`);
  }

  onStreamError(stream: number, code: number): number {
    return this.#add(`stream error ${stream} ${code}`);
  }

  onIgnored(type: number, stream: number): number {
    return this.#add(`ignored ${type} ${stream}`);
  }

  /** The lines so far. */
  take(): string[] {
    this.#flush();
    return this.lines.splice(0);
  }

  #add(line: string): number {
    this.#flush();
    this.lines.push(line);
    return this.answer;
  }

  #flush(suffix = ''): void {
    if (this.#dataStream === 0) return;
    this.lines.push(`data ${this.#dataStream} ${this.#data} (${this.#flowBytes})${suffix}`);
    this.#dataStream = 0;
    this.#data = '';
    this.#flowBytes = 0;
  }
}
