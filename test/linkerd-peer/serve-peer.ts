// SPDX-License-Identifier: Apache-2.0
// The server's side of the peer: proxy and application in one. Answers of HTTP hold what was in the header too.

import type { Server } from 'node:tls';
import { echo, http1Server, http2Server, ports, type Seen, tlsEcho } from './talk.ts';
import { serveMesh, type Shown } from './wire.ts';

export const servePeer = (shown: Shown): Server =>
  serveMesh(shown, (socket, header, client) => {
    const see = (seen: Seen) => ({ ...seen, client, header });
    switch (header.session) {
      case 'http1':
        http1Server(see).emit('connection', socket);
        return;
      case 'http2':
        // An answer to HTTP/1.1 in HTTP/2 says so.
        http2Server(
          see,
          (version): Record<string, string> => (version === '' ? {} : { 'l5d-orig-proto': version }),
        ).emit('connection', socket);
        return;
      case 'none':
        if (header.port === ports.tls) tlsEcho(socket, shown.key, shown.cert);
        else echo(socket);
    }
  });
