// SPDX-License-Identifier: Apache-2.0
// Finds endpoints as a proxy of Linkerd does: by asking destination for the name and the port.

import type { Certified } from './certify.ts';
import { controlAddress, controlName } from './environment.ts';
import { RawGrpc } from './grpc.ts';
import { encode } from './protobuf.ts';
import { readUpdate } from './read-messages.ts';

export interface Endpoint {
  readonly host: string;
  readonly port: number;
  readonly identity: string;
  readonly hint: string;
  readonly inboundPort: number;
}

/** The endpoint of a service's port, once it is meshed. */
export async function lookUp(shown: Certified, name: string, port: number): Promise<Endpoint> {
  const destination = await RawGrpc.connect({
    host: controlAddress(),
    port: 8086,
    serverName: controlName('linkerd-destination'),
    anchorsPem: shown.anchorsPem,
    shown,
  });
  const token = JSON.stringify({ ns: shown.identity.split('.')[1] });
  const call = destination.call(
    'io.linkerd.proxy.destination.Destination/Get',
    encode([2, `${name}:${port}`], [3, token]),
  );
  for (;;) {
    const update = readUpdate(await call.next()) as { add?: readonly (Endpoint & { at: string })[] };
    const found = update.add?.find(({ identity }) => identity !== undefined);
    if (found === undefined) continue;
    destination.close();
    const [host = '', ofApplication] = found.at.split('/');
    return { ...found, host, port: Number(ofApplication) };
  }
}
