// SPDX-License-Identifier: Apache-2.0
// The Huffman code of HPACK (RFC 7541 5.2, appendix B). The code is canonical, so the lengths are all there is to keep:
// codes of one length are consecutive, in the order of their symbols. Decoding looks up DIRECT_BITS bits at a time,
// which is one step for everything that is common in header fields.

/** Bits of the code of each byte; the end-of-string symbol, the 257th, has 30. */
// biome-ignore format: rows of sixteen
const lengths: readonly number[] = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
  28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
  7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
  6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
  21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
  30,
];
const BITS_MAX = 30;
const DIRECT_BITS = 10;
const DIRECT_MASK = (1 << DIRECT_BITS) - 1;
const END_OF_STRING = 256;

/** By the next DIRECT_BITS bits: symbol << 4 | bits of its code; 0: the code is longer. */
const direct = new Uint16Array(1 << DIRECT_BITS);
/** Of each length: its first code, how many there are, and where their symbols stand in `ordered`. */
const firstCode = new Uint32Array(BITS_MAX + 1);
const codesOfLength = new Uint16Array(BITS_MAX + 1);
const firstSymbol = new Uint16Array(BITS_MAX + 1);
const ordered = new Uint16Array(lengths.length);

for (let bits = 1, code = 0, position = 0; bits <= BITS_MAX; bits++, code <<= 1) {
  firstCode[bits] = code;
  firstSymbol[bits] = position;
  for (let symbol = 0; symbol < lengths.length; symbol++) {
    if (lengths[symbol] !== bits) continue;
    ordered[position++] = symbol;
    if (bits <= DIRECT_BITS) {
      const spare = DIRECT_BITS - bits;
      direct.fill((symbol << 4) | bits, code << spare, (code + 1) << spare);
    }
    code++;
  }
  codesOfLength[bits] = position - (firstSymbol[bits] as number);
}

/** The most bytes that `bytes` of Huffman code can mean. */
export function decodedBytesMax(bytes: number): number {
  return Math.floor((bytes * 8) / 5);
}

/** Decodes `buffer[start, end)` to `out[0, n)` and returns n; -1 when it is no code or not padded as it must be. */
export function decodeHuffman(buffer: Uint8Array, start: number, end: number, out: Uint8Array): number {
  let at = start;
  let length = 0;
  /** The lowest `held` bits of `bits` are still to be decoded; above them there may be anything. */
  let bits = 0;
  let held = 0;
  for (;;) {
    while (held < DIRECT_BITS && at < end) {
      bits = (bits << 8) | (buffer[at++] as number);
      held += 8;
    }
    if (held >= DIRECT_BITS) {
      const entry = direct[(bits >>> (held - DIRECT_BITS)) & DIRECT_MASK] as number;
      if (entry !== 0) {
        out[length++] = entry >>> 4;
        held -= entry & 15;
        continue;
      }
      const position = at * 8 - held;
      const symbol = longSymbol(buffer, position, end * 8);
      if (symbol < 0 || symbol === END_OF_STRING) return -1;
      out[length++] = symbol;
      const next = position + (lengths[symbol] as number);
      at = (next + 7) >>> 3;
      held = at * 8 - next;
      bits = buffer[at - 1] as number;
      continue;
    }
    // The last bits: ones after them change nothing, since no code of DIRECT_BITS or fewer consists of ones.
    const rest = ((bits << (DIRECT_BITS - held)) | (DIRECT_MASK >>> held)) & DIRECT_MASK;
    const entry = direct[rest] as number;
    if (entry !== 0 && (entry & 15) <= held) {
      out[length++] = entry >>> 4;
      held -= entry & 15;
      continue;
    }
    return held < 8 && rest === DIRECT_MASK ? length : -1;
  }
}

/** A symbol whose code is longer than DIRECT_BITS, bit by bit; -1 when the bits end before. */
function longSymbol(buffer: Uint8Array, position: number, end: number): number {
  let code = 0;
  for (let bits = 1; bits <= BITS_MAX && position + bits <= end; bits++) {
    const bit = position + bits - 1;
    code = (code << 1) | (((buffer[bit >>> 3] as number) >>> (7 - (bit & 7))) & 1);
    const offset = code - (firstCode[bits] as number);
    if (offset < (codesOfLength[bits] as number))
      return ordered[(firstSymbol[bits] as number) + offset] as number;
  }
  return -1;
}
