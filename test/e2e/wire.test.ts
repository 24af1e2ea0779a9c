// SPDX-License-Identifier: Apache-2.0
// Nothing of what meshed pods say to each other can be read between the nodes, and it all goes to port 4143.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { capture } from './capture.ts';
import { meshed, namespace, pod, service } from './objects.ts';

const MIRROR = fileURLToPath(new URL('programs/mirror.ts', import.meta.url));
const HTTP = 8080;
const OPAQUE = 6379;
/** Nobody listens there: a packet to it ends a tape. */
const LAST = 9;

describe('the wire between the nodes', () => {
  let mesh: LocalMesh;
  let folder: string;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nodemesh-wire-'));
    mesh = await startMesh({
      name: 'e2e-wire',
      objects: ['plain', 'mesh'].flatMap((ns) => [
        namespace(ns, ns === 'mesh' ? meshed : {}),
        pod(ns, 'mirror', ['node', MIRROR, String(HTTP), String(OPAQUE)], {
          node: 'node1',
          readinessPort: HTTP,
        }),
        pod(ns, 'client', [], { node: 'node2' }),
        service(ns, 'mirror', HTTP),
        { ...service(ns, 'tcp', OPAQUE, { selector: { app: 'mirror' } }) },
      ]),
    });
    await mesh.waitReady();
  });
  after(async () => {
    await mesh?.down();
    rmSync(folder, { recursive: true });
  });

  const packets = async (file: string, filter: string): Promise<number> => {
    const { stdout } = await mesh.wire.exec(['tcpdump', '-nn', '-r', file, filter]);
    return stdout.split('\n').filter((line) => line !== '').length;
  };
  /** Sends the marker in path, header, body and over plain TCP, has it mirrored, and returns what was on the wire. */
  const talk = async (ns: string, marker: string): Promise<{ bytes: Buffer; file: string }> => {
    const file = join(folder, `${ns}.pcap`);
    const tape = await capture(mesh.layout.wireNetns, 'wire0', file);
    const http = await mesh.exec(
      'client',
      [
        'curl',
        '-sS',
        '--max-time',
        '20',
        '-H',
        `x-marker: ${marker}`,
        '-d',
        `body ${marker}`,
        `http://mirror:${HTTP}/${marker}`,
      ],
      { ns },
    );
    assert.equal(http.code, 0, http.stderr);
    assert.equal(http.stdout.split(marker).length - 1, 3, http.stdout);
    const tcp = await mesh.exec('client', ['socat', '-t', '20', '-', `TCP:tcp:${OPAQUE}`], {
      ns,
      input: `${marker}\n`,
    });
    assert.equal(tcp.stdout, `${marker}\n`, tcp.stderr);
    // Packets are in order: once this one is on the tape, those before it are.
    const address = mesh.node('node1').layout.address.v4;
    await mesh.node('node2').exec(['curl', '-s', '--max-time', '20', `http://${address}:${LAST}/`]);
    await until('the end is on the tape', 30_000, async () => (await packets(file, `port ${LAST}`)) > 0);
    await tape.stop();
    return { bytes: readFileSync(file), file };
  };

  it('shows the marker of plain pods: the capture works', async () => {
    const marker = randomUUID();
    const { bytes } = await talk('plain', marker);
    assert.ok(bytes.toString('latin1').split(marker).length > 4);
  });

  it('never shows the marker of meshed pods, and carries their traffic to 4143 only', async () => {
    const marker = randomUUID();
    const { bytes, file } = await talk('mesh', marker);
    assert.equal(bytes.indexOf(marker), -1);
    const server = await mesh.pod('mirror', 'mesh');
    const addresses = server.status?.podIPs?.map(({ ip }) => `host ${ip}`).join(' or ') ?? '';
    assert.ok((await packets(file, `tcp and (${addresses}) and port 4143`)) > 10);
    assert.equal(await packets(file, `tcp and (${addresses}) and not port 4143`), 0);
  });
});
