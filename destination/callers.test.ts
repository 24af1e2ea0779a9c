// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock, VirtualClock } from '#lib/core/clock.ts';
import { silentLog } from '#lib/core/log.ts';
import { defaultMeshSettings as settings } from '#lib/registry/mesh-settings.ts';
import { createFolderRegistry, type FolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { Callers } from './callers.ts';
import { createClusterIndex } from './cluster-index.ts';
import { parseContextToken } from './context-token.ts';
import { CallError, status } from '#lib/grpc/status.ts';
import { agentIdentity, testPod } from './test-cluster.ts';

describe('callers', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nodemesh-callers-'));
  let registry: FolderRegistry;
  before(async () => {
    await writeFile(join(folder, 'pod.yaml'), JSON.stringify(testPod('web-1', { ips: ['10.1.0.1'] })));
    registry = createFolderRegistry({ folder, cluster: 'local', clock: systemClock, log: silentLog });
    await registry.synced();
  });
  after(async () => {
    await registry.close();
    rmSync(folder, { recursive: true });
  });

  const make = () => {
    const clock = new VirtualClock();
    const index = createClusterIndex({ registry, settings });
    const callers = new Callers({
      index,
      settings,
      cluster: 'local',
      agentServiceAccount: 'nodemesh-agent',
      clock,
    });
    return { clock, callers };
  };
  const agent = { identity: agentIdentity, connection: '10.0.0.1:4000' };
  const token = parseContextToken('{"ns":"shop","nodeName":"n1"}');
  const refusal = (code: status, message: RegExp) => (error: unknown) => {
    assert.ok(error instanceof CallError);
    assert.equal(status[error.code], status[code]);
    assert.match(error.details, message);
    return true;
  };

  it('a lookup waits a while for the node stream of its connection', async () => {
    const { callers, clock } = make();
    const early = callers.authorize(agent, token);
    callers.bind(agent, 'n1');
    await early;
    assert.equal(clock.pendingTimers, 0);
  });

  it('and is refused without one, also when another connection has it', async () => {
    const { callers, clock } = make();
    callers.bind({ ...agent, connection: '10.0.0.1:4001' }, 'n1');
    const lookup = callers.authorize(agent, token);
    clock.advance(5_000);
    await assert.rejects(lookup, refusal(status.FAILED_PRECONDITION, /no node stream on this connection/));
  });

  it('the connection is free again when its last stream has ended', async () => {
    const { callers, clock } = make();
    const first = callers.bind(agent, 'n1');
    const second = callers.bind(agent, 'n1');
    assert.throws(
      () => callers.bind(agent, 'n2'),
      refusal(status.PERMISSION_DENIED, /serves node n1, not n2/),
    );
    first();
    await callers.authorize(agent, token);
    second();
    const lookup = callers.authorize(agent, token);
    clock.advance(5_000);
    await assert.rejects(lookup, refusal(status.FAILED_PRECONDITION, /no node stream/));
    callers.bind(agent, 'n2');
  });

  it('reads context tokens as Linkerd does', () => {
    const nothing = { ns: '', nodeName: '', pod: '', external_workload: '', ipFamily: '' };
    const table: readonly (readonly [string, object])[] = [
      ['', nothing],
      ['ns:shop', { ...nothing, ns: 'shop' }],
      [
        '{"ns":"shop","nodeName":"n1","pod":"web","more":1}',
        { ...nothing, ns: 'shop', nodeName: 'n1', pod: 'web' },
      ],
      ['{"ns":"shop","external_workload":"vm"}', { ...nothing, ns: 'shop', external_workload: 'vm' }],
      ['{"ns":7}', nothing],
      ['{', nothing],
      ['null', nothing],
    ];
    for (const [text, expected] of table) assert.deepEqual({ ...parseContextToken(text) }, expected, text);
  });
});
