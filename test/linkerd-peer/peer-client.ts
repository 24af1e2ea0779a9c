// SPDX-License-Identifier: Apache-2.0
// The client's side of the peer: looks a name up as a proxy of Linkerd does, dials what it is told, and prints what it
// hears, a line for each protocol.
//   node peer-client.ts AUTHORITY-WITHOUT-PORT [transparent]

import type { Socket } from 'node:net';
import { ownCertificate } from './environment.ts';
import { lookUp } from './look-up.ts';
import { ports, type Protocol, protocols, talk } from './talk.ts';
import { dialMesh, type Session } from './wire.ts';

const [name = '', form = 'header'] = process.argv.slice(2);
const shown = await ownCertificate();

/** What is spoken behind the header: an upgrade cannot travel in HTTP/2. */
const sessions: Readonly<Record<Protocol, Session>> = {
  http1: 'http2',
  http2: 'http2',
  grpc: 'http2',
  websocket: 'http1',
  tcp: 'none',
  tls: 'none',
};

async function connect(protocol: Protocol): Promise<Socket> {
  const { host, port, identity, hint, inboundPort } = await lookUp(shown, name, ports[protocol]);
  if (form === 'transparent') return dialMesh(shown, { host, port, identity });
  const session = hint === 'h2' ? sessions[protocol] : 'none';
  return dialMesh(shown, { host, port: inboundPort, identity }, { port, name: '', session });
}

const heard: Record<string, string> = {};
for (const protocol of protocols) {
  const options = {
    connect,
    authority: `${name}:${ports[protocol]}`,
    http1: 'h2' as const,
    // Nobody may say who he is but by his certificate.
    fields: { 'l5d-client-id': 'somebody.else' },
  };
  heard[protocol] = await talk(protocol, options).catch((error: unknown) => String(error));
}
process.stdout.write(JSON.stringify(heard));
