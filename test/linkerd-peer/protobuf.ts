// SPDX-License-Identifier: Apache-2.0
// Protocol buffers by field numbers, in as few lines as they need. Shares nothing with the code that the product has
// made from .proto files, so that a wrong number there is seen here.

type Scalar = bigint | Uint8Array;
export type Field = readonly [
  number: number,
  value: string | number | bigint | boolean | Uint8Array | undefined,
];

/** Strings and bytes as they are, numbers as varints; undefined, 0, false and '' are left out. */
export function encode(...fields: readonly Field[]): Uint8Array {
  return Buffer.concat(
    fields.flatMap(([number, value]) => {
      if (value === undefined || value === '' || value === 0 || value === 0n || value === false) return [];
      const bytes = typeof value === 'string' ? Buffer.from(value) : value;
      if (bytes instanceof Uint8Array) return [varint((number << 3) | 2), varint(bytes.length), bytes];
      return [varint(number << 3), varint(BigInt(bytes))];
    }),
  );
}

/** Of four bytes, little endian. */
export function fixed32(number: number, value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return Buffer.concat([varint((number << 3) | 5), bytes]);
}

function varint(value: number | bigint): Uint8Array {
  const bytes: number[] = [];
  let rest = BigInt(value);
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  return Uint8Array.from([...bytes, Number(rest)]);
}

/** A message by its field numbers. What is absent is 0, '' or no message, as proto3 has it. */
export class Message {
  readonly #fields = new Map<number, Scalar[]>();

  constructor(bytes: Uint8Array) {
    let at = 0;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const take = (): bigint => {
      let value = 0n;
      for (let shift = 0n; ; shift += 7n) {
        const byte = view.getUint8(at++);
        value |= BigInt(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
      }
    };
    while (at < bytes.length) {
      const key = Number(take());
      const values = this.#fields.get(key >> 3) ?? [];
      this.#fields.set(key >> 3, values);
      switch (key & 7) {
        case 0:
          values.push(take());
          break;
        case 1:
          values.push(view.getBigUint64(at, true));
          at += 8;
          break;
        case 2: {
          const length = Number(take());
          if (at + length > bytes.length) throw new Error('a field is longer than its message');
          values.push(bytes.subarray(at, at + length));
          at += length;
          break;
        }
        case 5:
          values.push(BigInt(view.getUint32(at, true)));
          at += 4;
          break;
        default:
          throw new Error(`wire type ${key & 7}`);
      }
    }
  }

  /** The field numbers that are there. */
  get numbers(): number[] {
    return [...this.#fields.keys()].sort((a, b) => a - b);
  }

  has(number: number): boolean {
    return this.#fields.has(number);
  }

  big(number: number): bigint {
    const value = this.#fields.get(number)?.at(-1) ?? 0n;
    if (typeof value !== 'bigint') throw new Error(`field ${number} is no number`);
    return value;
  }

  number(number: number): number {
    return Number(this.big(number));
  }

  float(number: number): number {
    const view = new DataView(new ArrayBuffer(4));
    view.setUint32(0, this.number(number));
    return view.getFloat32(0);
  }

  bytes(number: number): Uint8Array {
    return this.bytesList(number).at(-1) ?? new Uint8Array();
  }

  text(number: number): string {
    return Buffer.from(this.bytes(number)).toString();
  }

  texts(number: number): string[] {
    return this.bytesList(number).map((bytes) => Buffer.from(bytes).toString());
  }

  /** Undefined if it is not there. */
  message(number: number): Message | undefined {
    return this.messages(number).at(-1);
  }

  messages(number: number): Message[] {
    return this.bytesList(number).map((bytes) => new Message(bytes));
  }

  /** map<string, string> */
  map(number: number): Record<string, string> {
    return Object.fromEntries(this.messages(number).map((entry) => [entry.text(1), entry.text(2)]));
  }

  /** repeated bytes */
  bytesList(number: number): Uint8Array[] {
    return (this.#fields.get(number) ?? []).map((value) => {
      if (typeof value === 'bigint') throw new Error(`field ${number} is a number`);
      return value;
    });
  }
}
