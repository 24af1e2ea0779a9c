// SPDX-License-Identifier: Apache-2.0
// A client for redis-server over one TCP connection, as small as it can be: commands go out in order, answers come
// back in order. https://redis.io/docs/latest/develop/reference/protocol-spec/ (RESP2)

import { connect, type Socket } from 'node:net';

export type RedisValue = string | number | null | RedisValue[];

const WAITING_MAX = 1000;
const TIMEOUT_MS = 5000;

/** One value at `at`; undefined while it is not whole. A redis error comes out as an Error. */
export function parseValue(
  buffer: Buffer,
  at: number,
): { readonly value: RedisValue | Error; readonly next: number } | undefined {
  const end = buffer.indexOf('\r\n', at);
  if (end < 0) return undefined;
  const head = buffer.toString('utf8', at + 1, end);
  const next = end + 2;
  const length = Number(head);
  switch (String.fromCharCode(buffer[at] ?? 0)) {
    case '+':
      return { value: head, next };
    case '-':
      return { value: new Error(`redis: ${head}`), next };
    case ':':
      return { value: length, next };
    case '$':
      if (length < 0) return { value: null, next };
      if (buffer.length < next + length + 2) return undefined;
      return { value: buffer.toString('utf8', next, next + length), next: next + length + 2 };
    case '*': {
      if (length < 0) return { value: null, next };
      const values: RedisValue[] = [];
      let position = next;
      while (values.length < length) {
        const element = parseValue(buffer, position);
        if (element === undefined) return undefined;
        if (element.value instanceof Error) return { value: element.value, next: element.next };
        values.push(element.value);
        position = element.next;
      }
      return { value: values, next: position };
    }
    default:
      throw new Error('redis answered something that is not its protocol');
  }
}

export class RedisClient {
  readonly #host: string;
  readonly #port: number;
  #socket: Socket | undefined;
  #waiting: { resolve: (value: RedisValue) => void; reject: (error: Error) => void }[] = [];

  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }

  command(...words: string[]): Promise<RedisValue> {
    const { promise, resolve, reject } = Promise.withResolvers<RedisValue>();
    if (this.#waiting.length >= WAITING_MAX) return Promise.reject(new Error('redis is too slow'));
    const socket = (this.#socket ??= this.#open());
    this.#waiting.push({ resolve, reject });
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    socket.write(`*${words.length}\r\n${parts.join('')}`);
    return promise;
  }

  close(): void {
    this.#socket?.destroy();
  }

  #open(): Socket {
    const socket = connect(this.#port, this.#host);
    let rest = Buffer.alloc(0);
    const fail = (error: Error): void => {
      socket.destroy();
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const { reject } of waiting) reject(error);
    };
    socket.setNoDelay(true);
    socket.setTimeout(TIMEOUT_MS, () => {
      // An idle connection may stay; one that owes an answer may not.
      if (this.#waiting.length > 0) fail(new Error('redis did not answer in time'));
    });
    socket.on('error', fail);
    socket.on('close', () => fail(new Error('redis closed the connection')));
    socket.on('data', (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      try {
        for (let step = parseValue(rest, 0); step !== undefined; step = parseValue(rest, 0)) {
          rest = rest.subarray(step.next);
          const first = this.#waiting.shift();
          if (step.value instanceof Error) first?.reject(step.value);
          else first?.resolve(step.value);
          if (rest.length === 0) break;
        }
      } catch (error) {
        fail(error instanceof Error ? error : new Error(String(error)));
      }
    });
    return socket;
  }
}
