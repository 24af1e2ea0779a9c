// SPDX-License-Identifier: Apache-2.0
// The few ASN.1 DER encodings that a certificate request needs (X.690). A writer only: nothing here reads DER.

const SEQUENCE = 0x30;
const SET = 0x31;

/** One element: tag, length in the shortest form, contents. */
export function derElement(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(contents);
  return Buffer.concat([Buffer.from([tag]), derLength(body.length), body]);
}

export const derSequence = (...contents: readonly Uint8Array[]): Buffer => derElement(SEQUENCE, ...contents);

/** Callers pass one element only, so the ordering rule of DER for sets never arises. */
export const derSetOfOne = (content: Uint8Array): Buffer => derElement(SET, content);

export const derOctetString = (content: Uint8Array): Buffer => derElement(0x04, content);

/** A bit string of whole bytes. */
export const derBitString = (content: Uint8Array): Buffer => derElement(0x03, Buffer.from([0]), content);

export const derTrue: Buffer = derElement(0x01, Buffer.from([0xff]));

/** A whole number from 0 to 127. */
export const derSmallInteger = (value: number): Buffer => derElement(0x02, Buffer.from([value]));

/** An object identifier written as `1.2.840.113549.1.9.14`. */
export function derObjectIdentifier(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes: number[] = [];
  for (const arc of [first * 40 + second, ...rest]) {
    const groups = [arc & 0x7f];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return derElement(0x06, Buffer.from(bytes));
}

/** A primitive element with a context-specific tag, such as the names of a subject alternative name. */
export const derContext = (number: number, content: Uint8Array): Buffer => derElement(0x80 | number, content);

/** A constructed element with a context-specific tag. */
export const derContextConstructed = (number: number, ...contents: readonly Uint8Array[]): Buffer =>
  derElement(0xa0 | number, ...contents);

function derLength(length: number): Buffer {
  if (length < 0x80) return Buffer.from([length]);
  const bytes: number[] = [];
  for (let left = length; left > 0; left >>>= 8) bytes.unshift(left & 0xff);
  return Buffer.from([0x80 | bytes.length, ...bytes]);
}
