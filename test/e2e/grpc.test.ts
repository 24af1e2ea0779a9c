// SPDX-License-Identifier: Apache-2.0
// gRPC in a mesh of two nodes, with programs that know nothing of it: the calls of one channel are spread over the
// servers, each with the caller's identity, whether the server is on the same node or on another.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LocalMesh, startMesh } from '../../local/harness.ts';
import { until } from '../faults/until.ts';
import { meshed, namespace, pod, service, serviceAccount } from './objects.ts';
import { scrape, total } from './scrape.ts';

const PORT = 9000;
const CALLS = 200;
const program = fileURLToPath(new URL('programs/grpc-echo.ts', import.meta.url));
const server = (name: string) => [process.execPath, program, 'serve', name, String(PORT)];
const labels = { service: 'names' };

interface Outcome {
  readonly answers: Readonly<Record<string, number>>;
  readonly failures: Readonly<Record<string, number>>;
}

describe('gRPC', () => {
  let mesh: LocalMesh;
  before(async () => {
    mesh = await startMesh({
      name: 'e-grpc',
      objects: [
        namespace('mesh', meshed),
        namespace('plain'),
        serviceAccount('mesh', 'caller'),
        pod('mesh', 'one', server('one'), { node: 'node1', labels, readinessPort: PORT }),
        pod('mesh', 'two', server('two'), { node: 'node2', labels, readinessPort: PORT }),
        service('mesh', 'names', PORT, { selector: labels }),
        pod('mesh', 'client', [], { node: 'node2', account: 'caller' }),
        pod('plain', 'outsider', [], { node: 'node2' }),
      ],
    });
    await mesh.waitReady();
  });
  after(async () => mesh.down());

  const call = async (from: string, ns: string): Promise<Outcome> => {
    const target = ['call', 'names.mesh.svc.cluster.local', String(PORT), String(CALLS)];
    const run = await mesh.exec(from, [process.execPath, program, ...target], { ns });
    assert.notEqual(run.stdout, '', run.stderr);
    return JSON.parse(run.stdout) as Outcome;
  };

  it('calls of one channel reach both servers, with the identity of the caller', async () => {
    const { answers, failures } = await call('client', 'mesh');
    assert.deepEqual(failures, {});
    const identity = 'caller.mesh.serviceaccount.identity.linkerd.cluster.local';
    assert.deepEqual(
      Object.keys(answers).sort((left, right) => left.localeCompare(right)),
      [`one ${identity}`, `two ${identity}`],
    );
    for (const count of Object.values(answers)) assert.ok(count > CALLS / 20, JSON.stringify(answers));
    const counted = { direction: 'outbound', grpc_status: '0', classification: 'success', tls: 'true' };
    const responses = async () => total(await scrape(mesh, 'node2'), 'response_total', counted);
    await until('all are counted', 20_000, async () => (await responses()) >= CALLS);
    assert.equal(await responses(), CALLS);
  });

  it('an unmeshed client keeps to one server, without an identity', async () => {
    const { answers, failures } = await call('outsider', 'plain');
    assert.deepEqual(failures, {});
    assert.equal(
      Object.values(answers).reduce((sum, count) => sum + count, 0),
      CALLS,
    );
    for (const name of Object.keys(answers)) assert.match(name, /^(one|two) $/);
  });
});
