// SPDX-License-Identifier: Apache-2.0
// An application that knows of no mesh: serves every protocol, or speaks every protocol with a host and prints what it
// hears.
//   node application.ts serve FILE-WITH-KEY-AND-CERTIFICATE
//   node application.ts call HOST

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { echo, http1Server, http2Server, ports, protocols, talk, tlsEcho } from './talk.ts';

const [action, argument = ''] = process.argv.slice(2);

if (action === 'serve') {
  const pem = readFileSync(argument, 'utf8');
  http1Server((seen) => seen).listen(ports.http1, '::');
  http2Server((seen) => seen).listen(ports.http2, '::');
  createServer({ allowHalfOpen: true }, echo).listen(ports.tcp, '::');
  createServer({ allowHalfOpen: true }, (socket) => tlsEcho(socket, pem, pem)).listen(ports.tls, '::');
} else {
  const host = argument;
  const heard: Record<string, string> = {};
  for (const protocol of protocols) {
    const options = {
      authority: `${host}:${ports[protocol]}`,
      connect: async () => {
        const socket = connect({ host, port: ports[protocol], allowHalfOpen: true });
        await once(socket, 'connect');
        return socket;
      },
      fields: { 'l5d-client-id': 'somebody.else' },
    };
    heard[protocol] = await talk(protocol, options).catch((error: unknown) => String(error));
  }
  process.stdout.write(JSON.stringify(heard));
}
