// SPDX-License-Identifier: Apache-2.0
// A thread for readiness.test.ts: echoes over plain sockets, says on which port, and on any message stops working.

import { isMainThread, parentPort } from 'node:worker_threads';
import { listenPlain } from './plain-fixture.ts';
import { PlainSocket } from './plain-socket.ts';
import { plainReadiness } from './readiness.ts';

const port = parentPort;
if (!isMainThread && port !== null) {
  const readiness = plainReadiness();
  const server = listenPlain(readiness);
  const serve = async (): Promise<never> => {
    for (;;) {
      const plain = new PlainSocket(readiness, await server.accepted());
      plain.on('error', () => undefined);
      plain.onBytes = (buffer, length) => plain.writeBytes(buffer, length);
      plain.resume();
    }
  };
  void serve();
  port.on('message', (how: 'spin' | 'throw') => {
    if (how === 'throw') throw new Error('as asked');
    for (;;);
  });
  port.postMessage(server.port);
}
