// SPDX-License-Identifier: Apache-2.0
// The framing between shim and agent, both directions; the shim has its own copy in C.
//
//   request:  u32 length (big endian) | "NMCNI1" 0 | KEY=VALUE 0 ... | 0 | stdin
//   reply:    u32 length (big endian) | u32 exit code | stdout
//
// A new layout gets a new magic: shims and agents of neighbouring versions meet.

import { MeshError } from '#lib/core/errors.ts';
import type { CniRequest } from './call.ts';
import type { CniAnswer } from './errors.ts';

const MAGIC = Buffer.from('NMCNI1\0');
const STDIN_BYTES_MAX = 1 << 20;
const ENVIRONMENT_BYTES_MAX = 64 << 10;
export const REQUEST_BYTES_MAX = MAGIC.length + ENVIRONMENT_BYTES_MAX + 1 + STDIN_BYTES_MAX;
export const REPLY_BYTES_MAX = 1 << 20;

const refuse = (message: string): never => {
  throw new MeshError('MESH_CNI_INVALID', message);
};

function frame(payload: Buffer): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(payload.length);
  return Buffer.concat([head, payload]);
}

export function encodeRequest({ env, stdin }: CniRequest): Buffer {
  const variables = [...env].map(([key, value]) => `${key}=${value}\0`).join('');
  const payload = Buffer.concat([MAGIC, Buffer.from(`${variables}\0${stdin}`)]);
  return payload.length > REQUEST_BYTES_MAX
    ? refuse('the CNI call is longer than the agent accepts')
    : frame(payload);
}

/** Reads a request's payload (without its length). */
export function decodeRequest(payload: Buffer): CniRequest {
  if (!payload.subarray(0, MAGIC.length).equals(MAGIC)) refuse('this is no call of the CNI shim');
  const env = new Map<string, string>();
  let at = MAGIC.length;
  for (;;) {
    const end = payload.indexOf(0, at);
    if (end < 0 || end - MAGIC.length > ENVIRONMENT_BYTES_MAX) return refuse('the environment does not end');
    if (end === at) break;
    const pair = payload.toString('utf8', at, end);
    const equals = pair.indexOf('=');
    if (equals < 1) refuse('the environment has an entry without a name');
    // The first one counts, as for getenv.
    if (!env.has(pair.slice(0, equals))) env.set(pair.slice(0, equals), pair.slice(equals + 1));
    at = end + 1;
  }
  return { env, stdin: payload.toString('utf8', at + 1) };
}

export function encodeReply({ code, stdout }: CniAnswer): Buffer {
  const payload = Buffer.concat([Buffer.from([0, 0, 0, code]), Buffer.from(stdout)]);
  return frame(payload);
}

/** Reads a reply's payload (without its length). */
export function decodeReply(payload: Buffer): CniAnswer {
  if (payload.length < 4) return refuse('the answer is too short');
  return { code: payload.readUInt32BE(0) === 0 ? 0 : 1, stdout: payload.toString('utf8', 4) };
}

export type FrameStep =
  | { readonly state: 'more' }
  | { readonly state: 'bad'; readonly length: number }
  | { readonly state: 'done'; readonly payload: Buffer };

/** Puts the chunks of one frame together, never keeping more than `bytesMax`. */
export class FrameReader {
  #chunks: Buffer[] = [];
  #size = 0;
  readonly #bytesMax: number;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  push(chunk: Buffer): FrameStep {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#size < 4) return { state: 'more' };
    const head = this.#head();
    const length = head.readUInt32BE(0);
    if (length > this.#bytesMax || this.#size > 4 + length) return { state: 'bad', length };
    if (this.#size < 4 + length) return { state: 'more' };
    return { state: 'done', payload: Buffer.concat(this.#chunks).subarray(4) };
  }

  #head(): Buffer {
    const [first] = this.#chunks;
    if (first !== undefined && first.length >= 4) return first;
    const whole = Buffer.concat(this.#chunks);
    this.#chunks = [whole];
    return whole;
  }
}
