// SPDX-License-Identifier: Apache-2.0
// What programs see of their sockets is the same with and without the mesh: one client and one server script run
// in plain and in meshed pods, on two nodes and on one, over IPv4 and IPv6, by address and by service.

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { after, before, describe, it } from 'node:test';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { meshed, namespace, pod, service } from './objects.ts';

const PYTHON = '/usr/bin/python3';
const SCRIPT = fileURLToPath(new URL('programs/transcript.py', import.meta.url));
const PORT = 7000;
const spaces = ['plain', 'mesh'] as const;

describe('transcripts with and without the mesh', () => {
  let mesh: LocalMesh;

  before(async () => {
    mesh = await startMesh({
      name: 'e2e-transcript',
      nodes: 2,
      objects: spaces.flatMap((ns) => [
        namespace(ns, ns === 'mesh' ? meshed : {}),
        pod(ns, 'server', [PYTHON, SCRIPT, 'server', String(PORT)], { node: 'node1', readinessPort: PORT }),
        pod(ns, 'far', [], { node: 'node2' }),
        pod(ns, 'near', [], { node: 'node1' }),
        service(ns, 'server', PORT),
      ]),
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const addressOf = async (ns: string, name: string, family: 4 | 6): Promise<string> => {
    const { status } = await mesh.pod(name, ns);
    const ip = status?.podIPs?.map((one) => one.ip).find((one) => one.includes(':') === (family === 6));
    assert.ok(ip, `${ns}/${name} has no IPv${family} address`);
    return ip;
  };
  const clusterIp = async (ns: string, family: 4 | 6): Promise<string> => {
    const services = await mesh.list('Service', ns);
    const ip = services
      .find(({ metadata }) => metadata.name === 'server')
      ?.spec.clusterIPs?.find((one) => one.includes(':') === (family === 6));
    assert.ok(ip);
    return ip;
  };

  for (const client of ['far', 'near'] as const) {
    for (const family of [4, 6] as const) {
      for (const by of ['pod address', 'service'] as const) {
        it(`${client === 'far' ? 'across nodes' : 'on one node'}, IPv${family}, by ${by}`, async () => {
          const [plain, meshedTranscript] = await Promise.all(
            spaces.map(async (ns) => {
              const host =
                by === 'service' ? await clusterIp(ns, family) : await addressOf(ns, 'server', family);
              const own = await addressOf(ns, client, family);
              const run = await mesh.exec(client, [PYTHON, SCRIPT, 'client', host, String(PORT), own], {
                ns,
              });
              return `${run.stdout}${run.stderr}exit ${run.code}`;
            }),
          );
          assert.match(plain ?? '', /# done\nexit 0$/);
          assert.equal(meshedTranscript, plain);
        });
      }
    }
  }
});
