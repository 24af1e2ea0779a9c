// SPDX-License-Identifier: Apache-2.0
// The agent's window for the kubelet's probes: /live and /ready on a socket in the pod's own folder, open from the
// first moment to the last. What else answers on the node may be another agent, during an upgrade.

import { rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';

const CONNECTIONS_MAX = 16;

export interface ProbeServer {
  close(): void;
}

/** `notReady` tells why the agent is not ready, or undefined. */
export async function serveProbes(path: string, notReady: () => string | undefined): Promise<ProbeServer> {
  const server: Server = createServer({ requestTimeout: 5_000, keepAliveTimeout: 1 }, (request, response) => {
    request.resume();
    const reason = request.url === '/ready' ? notReady() : undefined;
    const known = request.url === '/live' || request.url === '/ready';
    response.writeHead(known ? (reason === undefined ? 200 : 503) : 404, { 'content-type': 'text/plain' });
    response.end(reason === undefined ? 'ok\n' : `not ready: ${reason}\n`);
  });
  server.maxConnections = CONNECTIONS_MAX;
  // Of the same pod's process before, which crashed.
  rmSync(path, { force: true });
  server.listen(path);
  await once(server, 'listening');
  return {
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
