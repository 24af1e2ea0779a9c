// SPDX-License-Identifier: Apache-2.0
// Makes inputs out of others. Everything comes from the random numbers given, so that a run can be repeated.

/** Numbers in [0, 1) from a seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b_79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000;
  };
}

const INPUT_BYTES_MAX = 4096;

/** A few changes to one of the corpus, some of them with parts of others. */
export function mutate(corpus: readonly Buffer[], words: readonly Buffer[], random: () => number): Buffer {
  const below = (limit: number): number => Math.floor(random() * limit);
  const any = (from: readonly Buffer[]): Buffer => from[below(from.length)] ?? Buffer.alloc(0);
  let bytes = Buffer.from(any(corpus));
  for (let changes = 1 + below(6); changes > 0; changes--) {
    const at = below(bytes.length + 1);
    const length = Math.min(bytes.length - at, 1 + below(random() < 0.8 ? 8 : 200));
    switch (below(9)) {
      case 0:
        if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ (1 << below(8));
        break;
      case 1:
        if (at < bytes.length) bytes[at] = below(256);
        break;
      case 2:
        if (at < bytes.length) bytes[at] = (bytes[at] as number) + (random() < 0.5 ? 1 : 255);
        break;
      case 3:
        bytes = joined(bytes.subarray(0, at), bytes.subarray(at + length));
        break;
      case 4:
        bytes = joined(bytes.subarray(0, at + length), bytes.subarray(at));
        break;
      case 5:
      case 6:
        bytes = joined(bytes.subarray(0, at), any(words), bytes.subarray(at));
        break;
      case 7:
        bytes = joined(bytes.subarray(0, at), any(words), bytes.subarray(at + length));
        break;
      default: {
        const other = any(corpus);
        bytes = joined(bytes.subarray(0, at), other.subarray(below(other.length + 1)));
      }
    }
  }
  return bytes;
}

function joined(...parts: readonly Uint8Array[]): Buffer<ArrayBuffer> {
  return Buffer.from(Buffer.concat(parts).subarray(0, INPUT_BYTES_MAX));
}
