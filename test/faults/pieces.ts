// SPDX-License-Identifier: Apache-2.0
// What programs/pieces-server.ts and programs/pieces-client.ts say to each other, and what the client saw.

/** Of an answer. */
export const PIECES = 4;

export const pieceOf = (index: number, nonce: string, server: string): string =>
  `${index} ${nonce} ${server}\n`;

export interface Asked {
  readonly over: 'http1' | 'http2';
  readonly nonce: string;
  readonly askedMs: number;
  readonly endedMs: number;
  /**
   * `whole`; `short`: looked complete and was not; `status …`: with the reason that the proxy gives; `cut …`: ended by
   * an error amid the answer, `lost …`: before it.
   */
  readonly outcome: string;
  /** Who answered. */
  readonly server?: string;
}

const bytes = (value: Buffer): Buffer => value;
const method = (name: string, requestStream: boolean, responseStream: boolean) => ({
  path: `/faults.Calls/${name}`,
  requestStream,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
});

/** Of gRPC: none of them ends by itself. */
export const calls = {
  unary: method('Unary', false, false),
  upload: method('Upload', true, false),
  download: method('Download', false, true),
  both: method('Both', true, true),
};
