// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Workload } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { decodeSnapshot, encodeSnapshot, type Snapshot } from './snapshot.ts';

const workload = (uid: string): Workload =>
  Workload.fromPartial({
    cluster: 'local',
    uid,
    namespace: 'shop',
    name: `web-${uid}`,
    identity: 'web.shop.serviceaccount.identity.linkerd.cluster.local',
    addresses: ['10.0.0.7'],
    enrol: true,
    generation: 281474976710655n,
    config: { skipInboundPorts: [{ first: 25, last: 25 }] },
  });

const snapshot = (pods: number, destinations: number): Snapshot => ({
  permitKey: 'a2V5',
  writtenAtMs: 1_700_000_000_000,
  workloads: Array.from({ length: pods }, (_, index) => workload(`uid-${index}`)),
  namespaces: ['shop'],
  sandboxes: Array.from({ length: pods }, (_, index) => ({
    containerId: `c${index}`,
    uid: `uid-${index}`,
    namespace: 'shop',
    name: `web-${index}`,
    netnsPath: `/run/netns/${index}`,
    addresses: ['10.0.0.7'],
  })),
  pods: Array.from({ length: pods }, (_, index) => ({ uid: `uid-${index}`, podIndex: 2 ** 31 + index })),
  certificates: [{ identity: 'web', chainPem: 'chain', keyPem: 'key', notAfterMs: 1_800_000_000_000 }],
  destinations: Array.from({ length: destinations }, (_, index) => ({
    target: { namespace: 'shop', ip: '10.96.0.1', port: index },
    destination: {
      kind: 'service',
      authority: `s${index}.shop.svc.cluster.local:80`,
      opaque: false,
      resolved: true,
      endpoints: Array.from({ length: 3 }, (_one, at) => ({
        ip: `10.0.0.${at}`,
        port: 80,
        identity: 'web.shop.serviceaccount.identity.linkerd.cluster.local',
        inboundPort: 4143,
        weight: 1,
        labels: { namespace: 'shop', pod: `web-${at}`, service: `s${index}` },
        localPodUid: undefined,
      })),
    },
  })),
});

/** What JSON drops on the way. */
const plain = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_key, one: unknown) => (typeof one === 'bigint' ? `${one}n` : one)));

describe('a snapshot', () => {
  it('comes back as it was written', () => {
    const written = snapshot(3, 2);
    const read = decodeSnapshot(encodeSnapshot(written));
    assert.equal(read.outcome, 'read');
    assert.deepEqual(plain(read.snapshot), plain(written));
    assert.equal(read.snapshot.workloads[0]?.generation, 281474976710655n);
  });

  it('of another version is ignored with the reason', () => {
    const bytes = encodeSnapshot(snapshot(1, 1));
    const other = Buffer.from(
      bytes.toString('latin1').replace('nodemesh-snapshot 1 ', 'nodemesh-snapshot 2 '),
      'latin1',
    );
    assert.deepEqual(decodeSnapshot(other), { outcome: 'ignored', reason: 'version 2 is not known here' });
  });

  it('that is damaged or cut anywhere is ignored, never a crash', () => {
    const bytes = encodeSnapshot(snapshot(1, 1));
    for (let at = 0; at < bytes.length; at++) {
      const bent = Buffer.from(bytes);
      bent.writeUInt8(bent.readUInt8(at) ^ 0x41, at);
      assert.equal(decodeSnapshot(bent).outcome, 'ignored', `byte ${at}`);
      assert.equal(decodeSnapshot(bytes.subarray(0, at)).outcome, 'ignored', `cut at ${at}`);
    }
    assert.equal(decodeSnapshot(Buffer.alloc(0)).outcome, 'ignored');
  });

  it('of 250 pods and 1000 destinations costs the control thread some milliseconds', (test) => {
    const full = snapshot(250, 1000);
    encodeSnapshot(full);
    let [tookMs, size] = [Infinity, 0];
    // The machine may take the processor away meanwhile, but not each time.
    for (let round = 0; round < 10; round++) {
      const begun = performance.now();
      size = encodeSnapshot(full).length;
      tookMs = Math.min(tookMs, performance.now() - begun);
    }
    test.diagnostic(`${Math.round(size / 1024)} KiB in ${tookMs.toFixed(1)} ms`);
    assert.ok(tookMs < 250, `${tookMs} ms`);
  });
});
