// SPDX-License-Identifier: Apache-2.0
// What came of a request's body, kept while the request may have to be sent again. One that is too long is passed on
// and not kept: its request is sent once.

/** As Linkerd's. */
export const KEPT_BODY_BYTES_MAX = 65_536;
const FIRST_BYTES = 1024;
const nothing = Buffer.alloc(0);

export class KeptBody {
  /** Longer than what is kept. */
  over = false;
  #buffer = nothing;
  #length = 0;

  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  get length(): number {
    return this.#length;
  }

  /** `passedOn`: the present attempt gets it at once; what it does not get is kept whatever its length. */
  add(buffer: Buffer, start: number, end: number, passedOn: boolean): void {
    const size = end - start;
    if (this.#length + size > KEPT_BODY_BYTES_MAX) this.over = true;
    if (this.over && passedOn) {
      this.#drop();
      return;
    }
    this.#reserve(size);
    buffer.copy(this.#buffer, this.#length, start, end);
    this.#length += size;
  }

  /** An attempt got all of it. */
  passedOn(): void {
    if (this.over) this.#drop();
  }

  #drop(): void {
    this.#buffer = nothing;
    this.#length = 0;
  }

  #reserve(size: number): void {
    const needed = this.#length + size;
    if (needed <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(FIRST_BYTES, needed, this.#buffer.length * 2));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }
}
