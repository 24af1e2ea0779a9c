// SPDX-License-Identifier: Apache-2.0

import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { seededRandom, VirtualClock } from '#lib/core/clock.ts';
import { MeshError } from '#lib/core/errors.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import type { ListenerHandle } from '../proxy/model.ts';
import type { CniPod } from '../../cni-plugin/logic/node.ts';
import { createEnrolment } from './enrolment.ts';
import type { Enrolment, NodeWorkload, Sandbox } from './enrolment-model.ts';

const workloadOf = (
  uid: string,
  change: Partial<NodeWorkload> & { generation?: number } = {},
): NodeWorkload => ({
  enrol: change.enrol ?? true,
  notEnrolledReason: change.notEnrolledReason ?? '',
  redirection: { skipInboundPorts: [], skipOutboundPorts: [], skipSubnets: [] },
  pod: {
    cluster: 'local',
    uid,
    namespace: 'shop',
    name: `web-${uid}`,
    serviceAccount: 'web',
    identity: 'web.shop.serviceaccount.identity.linkerd.cluster.local',
    addresses: [],
    ownerKind: 'deployment',
    ownerName: 'web',
    generation: change.generation ?? 1,
    opaquePorts: [],
    skipOutboundPorts: [],
    clientAddressOfProxy: false,
    connectTimeoutOutboundMs: 1000,
    connectTimeoutInboundMs: 100,
    detectTimeoutOutboundMs: 10_000,
    policies: {
      byPort: [],
      fallback: { protocol: 'detect', detectTimeoutMs: 10_000, authorizations: [], labels: {} },
    },
    probes: [],
  },
});

const cniPod = (uid: string, containerId = `c-${uid}`): CniPod => ({
  containerId,
  netnsPath: `/run/netns/${uid}`,
  ifname: 'eth0',
  network: 'pods',
  namespace: 'shop',
  name: `web-${uid}`,
  uid,
  addresses: ['10.0.0.7', 'fd00::7'],
});

/** Lets every pending promise step of the code under test run. */
const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
};

describe('enrolment', () => {
  let clock: VirtualClock;
  let enrolment: Enrolment;
  let events: string[];
  let dead: Set<number>;
  /** Listeners that an earlier agent left, by pod. */
  let left: Map<string, ListenerHandle[]>;
  let handed: Map<string, readonly ListenerHandle[]>;
  let indices: number[];
  let slotsPrepared: (number | undefined)[];
  let open: Set<number>;
  let certificate: Promise<unknown>;
  let refuse: Error | undefined;
  let difference: string | undefined;
  let refuseArm: Error | undefined;
  let lines: LogLine[];
  let saved: readonly Sandbox[];
  let connections: number;
  const reports = (): string[] => events.filter((event) => event.startsWith('report'));

  beforeEach(() => {
    clock = new VirtualClock();
    events = [];
    dead = new Set();
    left = new Map();
    handed = new Map();
    indices = [];
    slotsPrepared = [];
    open = new Set();
    certificate = Promise.resolve();
    refuse = undefined;
    difference = undefined;
    refuseArm = undefined;
    lines = [];
    saved = [];
    connections = 0;
    let descriptor = 100;
    const take = (): number => {
      open.add(++descriptor);
      return descriptor;
    };
    enrolment = createEnrolment({
      clock,
      random: seededRandom(1),
      log: recordingLog(lines),
      redirection: {
        slots: 2,
        kernel: undefined,
        counters: () => new Map(),
        close: () => undefined,
        uninstall: () => undefined,
        sweep: () => 0,
        maintain: () => undefined,
        preparePod(pod) {
          if (refuse !== undefined) throw refuse;
          events.push(`prepare ${pod.uid}`);
          indices.push(pod.podIndex);
          slotsPrepared.push(pod.slots);
          return {
            setListener: (direction, family, slot) => events.push(`listener ${direction} ${family} ${slot}`),
            clearListener: () => undefined,
            arm: (armed) => {
              if (refuseArm !== undefined) throw refuseArm;
              events.push(`arm ${armed.uid} ${armed.addresses.join(' ')}`);
            },
            abandon: () => events.push(`abandon ${pod.uid}`),
            letGo: () => events.push(`let go ${pod.uid}`),
            close: () => events.push(`disarm ${pod.uid}`),
          };
        },
      },
      workers: {
        setPod: (pod, listeners) => {
          handed.set(pod.uid, listeners);
          events.push(
            `worker ${pod.uid} generation ${pod.generation}${pod.leaving === true ? ' leaving' : ''}`,
          );
        },
        removePod: (uid) => {
          events.push(`worker-remove ${uid}`);
          return Promise.resolve();
        },
        connectionsOf: () => Promise.resolve(connections),
      },
      certificates: {
        want: () => events.push('want'),
        drop: () => events.push('drop'),
        ready: async () => certificate,
      },
      reporter: {
        report: (uid, state, generation, reason) =>
          events.push(`report ${uid} ${state} ${generation} ${reason}`),
      },
      openNamespace: (path) => {
        events.push(`open ${path}`);
        const fd = take();
        return {
          fd,
          families: [4, 6],
          openListener: take,
          listens: (fd) => !dead.has(fd),
          differs: () => difference,
          closeDescriptor: (closing) => assert.ok(open.delete(closing), 'closed twice'),
          close: () => assert.ok(open.delete(fd), 'closed twice'),
        };
      },
      listeners: {
        adopt(uid) {
          const found = left.get(uid) ?? [];
          left.delete(uid);
          return found;
        },
        giveBack: (uid, listeners) => void left.set(uid, [...listeners]),
        keep: (uid, { direction, family, slot }) => events.push(`keep ${uid} ${direction} ${family} ${slot}`),
        forget: (uid) => events.push(`forget ${uid}`),
      },
      sandboxesChanged: (sandboxes) => {
        saved = sandboxes;
      },
      sandboxMissing: () => events.push('missing'),
      leaveGraceMs: 30_000,
      leaveLimitMs: 120_000,
      podForgotten: (uid) => events.push(`forgotten ${uid}`),
    });
  });

  it('enrols at CNI ADD, steering only after workers have the listeners', async () => {
    enrolment.setWorkload(workloadOf('a'));
    assert.deepEqual(await enrolment.addPod(cniPod('a')), { outcome: 'enrolled' });
    assert.ok(events.indexOf('worker a generation 1') < events.indexOf('arm a 10.0.0.7 fd00::7'));
    assert.equal(events.filter((event) => event.startsWith('listener')).length, 8);
    assert.deepEqual(reports(), ['report a enrolled 1 Enrolled']);
    assert.equal(enrolment.podOfAddress('10.0.0.7'), 'a');
    assert.equal(open.size, 9);
  });

  it('waits for the node stream to name the pod, then enrols', async () => {
    const outcome = enrolment.addPod(cniPod('a'));
    clock.advance(1_000);
    enrolment.setWorkload(workloadOf('a'));
    assert.deepEqual(await outcome, { outcome: 'enrolled' });
  });

  it('lets an unknown pod of a namespace that is not enrolled pass after the wait, and enrols it once known', async () => {
    const outcome = enrolment.addPod(cniPod('a'));
    clock.advance(2_000);
    assert.equal((await outcome).outcome, 'passed');
    enrolment.setWorkload(workloadOf('a'));
    await settle();
    assert.deepEqual(reports(), ['report a enrolled 1 Enrolled']);
  });

  it('has the runtime try again for an unknown pod of an enrolled namespace', async () => {
    enrolment.setNamespaces(['shop']);
    const outcome = enrolment.addPod(cniPod('a'));
    clock.advance(2_000);
    const answer = await outcome;
    assert.equal(answer.outcome, 'try-again');
  });

  it('passes a pod that is not opted in and says why', async () => {
    enrolment.setWorkload(workloadOf('a', { enrol: false, notEnrolledReason: 'hostNetwork' }));
    assert.deepEqual(await enrolment.addPod(cniPod('a')), { outcome: 'passed', reason: 'hostNetwork' });
    assert.equal(open.size, 0);
  });

  it('removes everything at DEL, also when DEL comes twice', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    await enrolment.removePod('c-a', 'a');
    await enrolment.removePod('c-a', 'a');
    assert.equal(open.size, 0);
    assert.ok(events.includes('disarm a'));
    assert.equal(enrolment.podOfAddress('10.0.0.7'), undefined);
    assert.deepEqual(saved, []);
    enrolment.removeWorkload('a');
    assert.ok(events.includes('forgotten a'));
    assert.deepEqual(enrolment.pods, []);
  });

  it('says that a pod which has ended is out, whether its DEL or its end is heard of first', async () => {
    const end = { enrol: false, notEnrolledReason: 'the pod has ended', generation: 2 };
    for (const uid of ['a', 'b']) {
      enrolment.setWorkload(workloadOf(uid));
      await enrolment.addPod(cniPod(uid));
    }
    await enrolment.removePod('c-a', 'a');
    enrolment.setWorkload(workloadOf('a', end));
    enrolment.setWorkload(workloadOf('b', end));
    await enrolment.removePod('c-b', 'b');
    await settle();
    assert.deepEqual(reports().slice(2), ['report a left 2 NotEnrolled', 'report b left 2 NotEnrolled']);
    enrolment.setWorkload(workloadOf('a', { ...end, generation: 3 }));
    await settle();
    assert.equal(reports().length, 4, 'it is said once');
  });

  it('ignores a DEL of an earlier sandbox of the same pod', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a', 'first'));
    await enrolment.addPod(cniPod('a', 'second'));
    await enrolment.removePod('first', 'a');
    assert.equal(enrolment.podOfAddress('10.0.0.7'), 'a');
    assert.equal(open.size, 9);
  });

  it('enrols a new sandbox, not the one before, when the configuration changes while that one leaves', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a', 'first'));
    const added = enrolment.addPod({ ...cniPod('a', 'second'), netnsPath: '/run/netns/second' });
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    assert.deepEqual(await added, { outcome: 'enrolled' });
    assert.equal(events.filter((event) => event.startsWith('open')).at(-1), 'open /run/netns/second');
    assert.equal(open.size, 9);
  });

  it('leaves nothing open when the kernel refuses, reports it, and tries again later', async () => {
    refuse = new MeshError('MESH_BPF_LOAD', 'refused');
    enrolment.setWorkload(workloadOf('a'));
    const outcome = await enrolment.addPod(cniPod('a'));
    assert.equal(outcome.outcome, 'try-again');
    assert.equal(open.size, 0);
    assert.deepEqual(reports(), ['report a failed 1 MESH_BPF_LOAD']);
    refuse = undefined;
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    await settle();
    assert.deepEqual(reports().at(-1), 'report a enrolled 2 Enrolled');
  });

  it('does not wait for a certificate for ever', async () => {
    certificate = new Promise(() => undefined);
    enrolment.setWorkload(workloadOf('a'));
    const outcome = enrolment.addPod(cniPod('a'));
    await settle();
    clock.advance(8_000);
    assert.equal((await outcome).outcome, 'try-again');
    assert.equal(open.size, 0);
  });

  it('carries a changed configuration to the workers and the kernel without new listeners', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    await settle();
    assert.ok(events.includes('worker a generation 2'));
    assert.equal(open.size, 9);
    assert.equal(reports().at(-1), 'report a enrolled 2 Enrolled');
  });

  it("keeps the sandbox's addresses when the configuration changes before the pod's status names them", async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    await settle();
    // Without an own address the kernel would let the pod's connections out in plain text.
    assert.deepEqual(
      events.filter((event) => event.startsWith('arm')),
      ['arm a 10.0.0.7 fd00::7', 'arm a 10.0.0.7 fd00::7'],
    );
  });

  it('says so and tries again when the kernel refuses a new configuration', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    refuseArm = new MeshError('MESH_CONFIG_INVALID', 'no network');
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    await settle();
    assert.equal(reports().at(-1), 'report a enrolled 1 Enrolled');
    assert.ok(lines.some(({ message }) => message === 'a pod keeps its old redirection'));
    refuseArm = undefined;
    clock.advance(1_000);
    await settle();
    assert.equal(reports().at(-1), 'report a enrolled 2 Enrolled');
  });

  const optOut = async (generation: number): Promise<void> => {
    enrolment.setWorkload(workloadOf('a', { enrol: false, notEnrolledReason: 'disabled', generation }));
    await settle();
  };
  const pass = async (ms: number): Promise<void> => {
    clock.advance(ms);
    await settle();
  };

  it('a pod that opts out serves the mesh port until destination has withdrawn it and the grace time is over', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    await optOut(2);
    assert.equal(reports().at(-1), 'report a leaving 2 Leaving');
    assert.ok(events.includes('worker a generation 2 leaving'));
    await pass(600_000);
    assert.ok(!events.includes('disarm a'), 'destination has not answered');
    enrolment.withdrawn('a');
    await pass(29_999);
    assert.ok(!events.includes('disarm a'));
    await pass(1);
    assert.ok(events.includes('disarm a'));
    assert.equal(reports().at(-1), 'report a left 2 OptedOut');
    assert.equal(open.size, 0);
  });

  it('a leaving pod stays while it has connections, up to the limit', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    connections = 1;
    await optOut(2);
    enrolment.withdrawn('a');
    await pass(30_000);
    for (let second = 30; second < 119; second++) await pass(1_000);
    assert.ok(!events.includes('disarm a'));
    assert.equal(enrolment.settled, true);
    await pass(1_000);
    assert.ok(events.includes('disarm a'));
  });

  it('a leaving pod that opts in again stays as it is, and is reported at once', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    await optOut(2);
    enrolment.withdrawn('a');
    await pass(29_000);
    enrolment.setWorkload(workloadOf('a', { generation: 1 }));
    await settle();
    assert.equal(reports().at(-1), 'report a enrolled 1 Enrolled');
    await pass(600_000);
    assert.ok(!events.includes('disarm a'));
    assert.equal(events.filter((event) => event.startsWith('prepare')).length, 1);
    await optOut(2);
    assert.equal(reports().at(-1), 'report a leaving 2 Leaving');
    await pass(600_000);
    assert.ok(!events.includes('disarm a'), 'the answer to the first time does not count for the second');
  });

  it('DEL of a leaving pod removes it at once', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    connections = 1;
    await optOut(2);
    enrolment.withdrawn('a');
    await enrolment.removePod('c-a', 'a');
    assert.ok(events.includes('disarm a'));
    assert.equal(open.size, 0);
    await pass(600_000);
    assert.equal(reports().at(-1), 'report a leaving 2 Leaving');
  });

  it('many pods at once: between two of them the event loop has its turn', async () => {
    const uids = ['a', 'b', 'c', 'd'];
    for (const uid of uids) {
      const { containerId, namespace, name, netnsPath, addresses } = cniPod(uid);
      enrolment.restore([{ containerId, uid, namespace, name, netnsPath, addresses }]);
      enrolment.setWorkload(workloadOf(uid));
    }
    let other = 0;
    const tick = (): void => {
      events.push(`other ${++other}`);
      if (other < 30) setImmediate(tick);
    };
    setImmediate(tick);
    await settle();
    const order = events.filter((event) => event.startsWith('arm') || event.startsWith('other'));
    for (let index = 1; index < order.length; index++) {
      const both = [order[index - 1], order[index]].every((event) => event?.startsWith('arm'));
      assert.ok(!both, order.join(', '));
    }
    assert.equal(events.filter((event) => event.startsWith('arm')).length, uids.length);
  });

  const running = (change: Parameters<typeof workloadOf>[1] = {}): NodeWorkload => {
    const workload = workloadOf('a', change);
    return { ...workload, pod: { ...workload.pod, addresses: ['10.0.0.7'] } };
  };

  it('a running pod that nobody announced is looked for, enrolled where it was found, and never kept on disk', async () => {
    enrolment.setWorkload(running());
    assert.ok(events.includes('missing'));
    assert.deepEqual(enrolment.missing, [{ uid: 'a', addresses: ['10.0.0.7'] }]);
    assert.equal(enrolment.settled, false);
    enrolment.setNotFound('a');
    enrolment.setNotFound('a');
    assert.equal(enrolment.settled, true);
    enrolment.setFound('a', '/proc/7/ns/net');
    await settle();
    assert.deepEqual(reports(), ['report a pending 1 NoSandbox', 'report a enrolled 1 Enrolled']);
    assert.deepEqual(enrolment.missing, []);
    assert.deepEqual(saved, []);
    enrolment.removeWorkload('a');
    await settle();
    assert.equal(open.size, 0);
    assert.deepEqual(enrolment.pods, []);
  });

  it('a found pod whose processes are gone is let go of, and looked for again', async () => {
    enrolment.setWorkload(running());
    enrolment.setFound('a', '/proc/7/ns/net');
    await settle();
    events = [];
    enrolment.setFoundGone('a');
    await settle();
    assert.ok(events.includes('disarm a'));
    assert.ok(events.includes('missing'));
    assert.equal(open.size, 0);
  });

  it('DEL of a found pod removes it, ADD takes its place', async () => {
    enrolment.setWorkload(running());
    enrolment.setFound('a', '/proc/7/ns/net');
    await settle();
    await enrolment.removePod('c-a', 'a');
    assert.equal(open.size, 0);
    enrolment.setFound('a', '/proc/7/ns/net');
    await settle();
    assert.deepEqual(await enrolment.addPod(cniPod('a')), { outcome: 'enrolled' });
    assert.equal(open.size, 9);
    assert.equal(saved.length, 1);
  });

  it('a pod without an address, or one that has a sandbox, is not looked for', async () => {
    enrolment.setWorkload(workloadOf('a'));
    assert.ok(!events.includes('missing'));
    enrolment.setWorkload(running({ enrol: false, generation: 2 }));
    assert.deepEqual(enrolment.missing, []);
    enrolment.setFound('a', '/proc/7/ns/net');
    await settle();
    assert.ok(!events.some((event) => event.startsWith('prepare')));
  });

  it('keeps the certificate that two pods of one account share until both are gone', async () => {
    enrolment.setWorkload(workloadOf('a'));
    enrolment.setWorkload(workloadOf('b'));
    await enrolment.addPod(cniPod('a'));
    await enrolment.addPod(cniPod('b'));
    await enrolment.removePod('c-a', 'a');
    assert.ok(!events.includes('drop'));
    await enrolment.removePod('c-b', 'b');
    assert.equal(events.filter((event) => event === 'drop').length, 1);
  });

  it('holds back by the list of an earlier agent until destination has named pod or namespaces', async () => {
    const held = async (uid: string): Promise<string> => {
      const outcome = enrolment.addPod(cniPod(uid));
      clock.advance(2_000);
      const { outcome: word } = await outcome;
      await enrolment.removePod(`c-${uid}`, uid);
      return word;
    };
    assert.equal(await held('a'), 'passed');
    enrolment.setEarlier({ state: 'missing' });
    assert.equal(await held('a'), 'passed');
    enrolment.setEarlier({ state: 'whole', namespaces: [], pods: ['a'] });
    assert.equal(await held('a'), 'try-again');
    assert.equal(await held('b'), 'passed');
    enrolment.setEarlier({ state: 'whole', namespaces: ['shop'], pods: [] });
    assert.equal(await held('b'), 'try-again');
    enrolment.setEarlier({ state: 'damaged', reason: 'it is not whole' });
    enrolment.setNamespaces([]);
    assert.equal(await held('b'), 'passed');
    enrolment.setEarlier({ state: 'damaged', reason: 'it is not whole' });
    assert.equal(await held('b'), 'try-again');
  });

  it('never answers an ADD for a sandbox that was removed or replaced while it waited', async () => {
    const first = enrolment.addPod(cniPod('a', 'c-1'));
    await enrolment.removePod('c-1', 'a');
    const second = enrolment.addPod(cniPod('a', 'c-2'));
    enrolment.setWorkload(workloadOf('a'));
    clock.advance(2_000);
    assert.equal((await first).outcome, 'try-again');
    assert.deepEqual(await second, { outcome: 'enrolled' });
    assert.equal(saved[0]?.containerId, 'c-2');
  });

  it('leaves the pod in the mesh when a further interface of it comes and goes', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    const before = events.length;
    const further = { ...cniPod('a'), ifname: 'net1', addresses: ['192.0.2.7'] };
    assert.equal((await enrolment.addPod(further)).outcome, 'passed');
    await enrolment.removePod('c-a', 'a', 'net1');
    assert.equal(events.length, before);
    assert.deepEqual(saved[0]?.addresses, ['10.0.0.7', 'fd00::7']);
    assert.equal(enrolment.pods[0]?.phase, 'enrolled');
    await enrolment.removePod('c-a', 'a', 'eth0');
    assert.equal(open.size, 0);
    assert.equal(enrolment.pods[0]?.phase, 'pending');
  });

  it('checks a pod: in the mesh, in that namespace, by that sandbox', async () => {
    assert.deepEqual(await enrolment.checkPod(cniPod('a')), { outcome: 'sound' });
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    assert.deepEqual(await enrolment.checkPod(cniPod('a')), { outcome: 'sound' });
    assert.match(JSON.stringify(await enrolment.checkPod(cniPod('a', 'c-9'))), /another sandbox/);
    difference = 'is meshed in another namespace';
    assert.match(JSON.stringify(await enrolment.checkPod(cniPod('a'))), /another namespace/);
    difference = undefined;
    refuse = new MeshError('MESH_BPF_LOAD', 'no');
    enrolment.setWorkload(workloadOf('b'));
    await enrolment.addPod(cniPod('b'));
    assert.match(JSON.stringify(await enrolment.checkPod(cniPod('b'))), /not in the mesh.*MESH_BPF_LOAD/);
  });

  it('enrols a new sandbox by its own addresses while the status still has those of the one before', async () => {
    const workload = workloadOf('a');
    enrolment.setWorkload({ ...workload, pod: { ...workload.pod, addresses: ['10.0.0.1'] } });
    assert.deepEqual(await enrolment.addPod(cniPod('a')), { outcome: 'enrolled' });
    assert.ok(events.includes('arm a 10.0.0.7 fd00::7'));
    assert.equal(enrolment.podOfAddress('10.0.0.1'), undefined);
  });

  it('keeps, of a network, only the attachments that the runtime still has', async () => {
    for (const uid of ['a', 'b', 'c']) {
      enrolment.setWorkload(workloadOf(uid));
      await enrolment.addPod({ ...cniPod(uid), network: uid === 'c' ? 'other' : 'pods' });
    }
    await enrolment.keepOnly('pods', [
      { containerId: 'c-a', ifname: 'eth0' },
      { containerId: 'c-b', ifname: 'net1' },
    ]);
    assert.deepEqual(
      saved.map(({ uid }) => uid),
      ['a', 'c'],
    );
    await enrolment.keepOnly('other', []);
    assert.deepEqual(
      saved.map(({ uid }) => uid),
      ['a'],
    );
  });

  const ofEarlier = (uid: string, slots: number, first: number): ListenerHandle[] => {
    let fd = first;
    const handles: ListenerHandle[] = [];
    for (const direction of ['inbound', 'outbound'] as const)
      for (let slot = 0; slot < slots; slot++)
        for (const family of [4, 6] as const) handles.push({ direction, family, slot, fd: fd++ });
    for (const handle of handles) open.add(handle.fd);
    left.set(uid, handles);
    return handles;
  };
  const sandboxOf = (uid: string): Sandbox => {
    const { containerId, namespace, name, netnsPath, addresses } = cniPod(uid);
    return { containerId, uid, namespace, name, netnsPath, addresses };
  };

  it("adopts an earlier agent's listeners and number of a pod, as many slots as there are", async () => {
    const earlier = ofEarlier('a', 4, 500);
    enrolment.setWorkload(workloadOf('a'));
    enrolment.restore([sandboxOf('a')], new Map([['a', 4711]]));
    await settle();
    assert.equal(reports().at(-1), 'report a enrolled 1 Enrolled');
    assert.deepEqual(handed.get('a'), earlier);
    assert.deepEqual(indices, [4711]);
    assert.deepEqual(slotsPrepared, [4]);
    assert.deepEqual(enrolment.podIndices, [{ uid: 'a', podIndex: 4711 }]);
    assert.equal(events.filter((event) => event.startsWith('keep a')).length, 16);
  });

  it('makes the listeners that an earlier agent did not leave', async () => {
    const earlier = ofEarlier('a', 2, 500).filter(
      ({ slot, direction }) => slot === 1 || direction === 'inbound',
    );
    left.set('a', earlier);
    enrolment.setWorkload(workloadOf('a'));
    enrolment.restore([sandboxOf('a')]);
    await settle();
    assert.equal(handed.get('a')?.length, 8);
    assert.equal(handed.get('a')?.filter((one) => earlier.includes(one)).length, 6);
  });

  it('does not lose adopted listeners when the kernel refuses: the next attempt has them', async () => {
    const earlier = ofEarlier('a', 2, 500);
    refuse = new MeshError('MESH_BPF_LOAD', 'no');
    enrolment.setWorkload(workloadOf('a'));
    enrolment.restore([sandboxOf('a')], new Map([['a', 4711]]));
    await settle();
    assert.ok(earlier.every(({ fd }) => open.has(fd)));
    assert.ok(!events.includes('forget a'));
    refuse = undefined;
    clock.advance(2_000);
    await settle();
    assert.deepEqual(handed.get('a'), earlier);
    assert.deepEqual(indices, [4711]);
  });

  it('stands by: serves on, writes nothing to the kernel, lets go of pods that are removed', async () => {
    for (const uid of ['a', 'b']) {
      enrolment.setWorkload(workloadOf(uid));
      await enrolment.addPod(cniPod(uid));
    }
    saved = [];
    enrolment.setActive(false);
    const before = events.length;
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    await settle();
    enrolment.removeWorkload('b');
    await settle();
    const since = events.slice(before);
    assert.ok(since.includes('worker a generation 2'));
    assert.ok(since.includes('let go b'));
    assert.ok(since.includes('worker-remove b'));
    assert.deepEqual(
      since.filter((event) => /^(arm|disarm|listener|prepare)/.test(event)),
      [],
    );
    assert.deepEqual(saved, []);
    enrolment.setActive(true);
    await settle();
    assert.equal(events.filter((event) => event.startsWith('arm a')).length, 2);
  });

  it('reports what the self-check cannot mend in the place of "enrolled", whatever changes meanwhile', async () => {
    enrolment.setWorkload(workloadOf('a'));
    enrolment.setProblem('a', 'pod-listeners: dead');
    assert.equal(reports().at(-1), undefined, 'a pod that is not in the mesh has no such problem');
    await enrolment.addPod(cniPod('a'));
    enrolment.setProblem('a', 'pod-listeners: dead');
    assert.equal(reports().at(-1), 'report a failed 1 SelfCheck');
    assert.equal(enrolment.pods[0]?.problem, 'pod-listeners: dead');
    enrolment.setWorkload(workloadOf('a', { generation: 2 }));
    await settle();
    assert.equal(reports().at(-1), 'report a failed 2 SelfCheck');
    assert.equal(enrolment.pods[0]?.phase, 'enrolled', 'it is served');
    enrolment.setProblem('a', undefined);
    assert.equal(reports().at(-1), 'report a enrolled 2 Enrolled');
  });

  it('replaces listeners that were shut down, and no others', async () => {
    enrolment.setWorkload(workloadOf('a'));
    await enrolment.addPod(cniPod('a'));
    const before = handed.get('a') ?? [];
    assert.equal(enrolment.repairListeners(), 0);
    const shut = before[3];
    assert.ok(shut);
    dead.add(shut.fd);
    assert.equal(enrolment.repairListeners(), 1);
    const after = handed.get('a') ?? [];
    assert.deepEqual(
      after.map((one, at) => one === before[at]),
      before.map((_one, at) => at !== 3),
    );
    assert.ok(!open.has(shut.fd));
  });

  it('counts as settled once every known sandbox is where its workload wants it', async () => {
    const { containerId, uid, namespace, name, netnsPath, addresses } = cniPod('a');
    assert.equal(enrolment.settled, true);
    enrolment.restore([{ containerId, uid, namespace, name, netnsPath, addresses }]);
    assert.equal(enrolment.settled, false);
    enrolment.setWorkload(workloadOf('a'));
    await settle();
    assert.equal(enrolment.settled, true);
  });

  it('takes over the sandboxes of an earlier agent once destination names them', async () => {
    const { containerId, uid, namespace, name, netnsPath, addresses } = cniPod('a');
    enrolment.restore([{ containerId, uid, namespace, name, netnsPath, addresses }]);
    enrolment.setWorkload(workloadOf('a'));
    await settle();
    assert.equal(reports().at(-1), 'report a enrolled 1 Enrolled');
  });
});
