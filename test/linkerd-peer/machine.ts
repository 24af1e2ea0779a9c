// SPDX-License-Identifier: Apache-2.0
// The peer on a machine that is no pod: its certificate lies in a folder. As a server it prints a line for each client;
// as a client it prints what it hears, or what went wrong.
//   node machine.ts serve FOLDER
//   node machine.ts call FOLDER ADDRESS IDENTITY AUTHORITY-WITHOUT-PORT

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { servePeer } from './serve-peer.ts';
import { ports, type Protocol, talk } from './talk.ts';
import { dialMesh, identityOf, type Session } from './wire.ts';

const [action, folder = '', host = '', identity = '', authority = ''] = process.argv.slice(2);
const read = (name: string): string => readFileSync(join(folder, name), 'utf8');
const issuerOf = (socket: TLSSocket): string =>
  socket.getPeerX509Certificate()?.issuerCertificate?.fingerprint256 ?? '';
const shown = { cert: read('machine.crt'), key: read('machine.key'), anchorsPem: read('anchors.crt') };

if (action === 'serve') {
  servePeer(shown).on('secureConnection', (socket: TLSSocket & { servername?: string }) => {
    const line = { client: identityOf(socket), issuer: issuerOf(socket), serverName: socket.servername };
    process.stdout.write(`${JSON.stringify(line)}\n`);
  });
} else {
  const sessions: Partial<Record<Protocol, Session>> = { http2: 'http2', tcp: 'none' };
  const heard: Record<string, string> = {};
  for (const [name, session] of Object.entries(sessions)) {
    const protocol = name as Protocol;
    const port = ports[protocol];
    heard[protocol] = await talk(protocol, {
      authority: `${authority}:${port}`,
      connect: async () => {
        const socket = await dialMesh(shown, { host, port: 4143, identity }, { port, name: '', session });
        heard['issuer'] = issuerOf(socket);
        return socket;
      },
    }).catch((error: unknown) => String(error));
  }
  process.stdout.write(JSON.stringify(heard));
}
