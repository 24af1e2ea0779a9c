// SPDX-License-Identifier: Apache-2.0
// For tests: an address where nobody answers a connect, nor refuses it.

import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { AF_INET, bind, checked, close, listen, SOCK_STREAM, socket } from '#lib/net/native.ts';
import { SOCKET_ADDRESS_BYTES, writeSocketAddress } from '#lib/net/socket-address.ts';

export interface FullListener {
  readonly address: string;
  close(): void;
}

export async function fullListener(): Promise<FullListener> {
  // Its queue has room for one connection, and nobody takes it out.
  const fd = checked('socket', socket(AF_INET, SOCK_STREAM, 0), 'a full listener');
  const address = Buffer.alloc(SOCKET_ADDRESS_BYTES);
  const ip = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.1`;
  const port = randomInt(20_000, 30_000);
  checked('bind', bind(fd, address, writeSocketAddress(address, ip, port)), 'a full listener');
  checked('listen', listen(fd, 0), 'a full listener');
  const filler = connect(port, ip);
  await once(filler, 'connect');
  return {
    address: `${ip}:${port}`,
    close() {
      filler.destroy();
      close(fd);
    },
  };
}
