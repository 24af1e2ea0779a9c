// SPDX-License-Identifier: Apache-2.0
// When requests may pass in memory: as the network answers, which is played by a listener on loopback, on virtual time.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { after, afterEach, beforeEach, describe, it } from 'node:test';
import { VirtualClock } from '#lib/core/clock.ts';
import { type LogLine, recordingLog } from '#lib/core/log.ts';
import { MetricStore } from '#lib/metrics/store.ts';
import {
  AF_INET,
  checked,
  close,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  socket,
} from '#lib/net/native.ts';
import { plainReadiness } from '#lib/net/readiness.ts';
import { collectBytes } from '../detect/collect.ts';
import { attachDataSource } from '../exchange/byte-source.ts';
import { until } from '../exchange/raw-peers.ts';
import type { Passenger } from '../exchange/types.ts';
import { FAILURE_CONNECT_OTHER, FAILURE_CONNECT_REFUSED, FAILURE_NONE } from '../failure.ts';
import { proxyFamilies } from '../metrics/families.ts';
import type { Endpoint, ServerPolicy, WorkerPod } from '../model.ts';
import type { WorkerContext } from '../pods/context.ts';
import { PodState } from '../pods/pod-state.ts';
import type { SpareSockets } from '../pods/spare-sockets.ts';
import { decodeTransportHeader } from '../tls/transport-header.ts';
import { MemoryPass } from './memory-pass.ts';
import { grantPermit, PERMIT_NAME } from './permit.ts';

const PORT = 8080;
const policy = (protocol: ServerPolicy['protocol']): ServerPolicy => ({
  protocol,
  detectTimeoutMs: 10_000,
  authorizations: [],
  labels: {},
});

function podOf(name: string, podIndex: number): WorkerPod {
  return {
    cluster: 'local',
    uid: name,
    namespace: 'shop',
    name,
    serviceAccount: name,
    identity: `${name}.shop`,
    addresses: name === 'api' ? ['127.0.0.1'] : ['10.0.0.1'],
    ownerKind: '',
    ownerName: '',
    netnsFd: -1,
    podIndex,
    generation: 1,
    startedAtSeconds: 0,
    opaquePorts: [],
    skipOutboundPorts: [],
    clientAddressOfProxy: false,
    connectTimeoutOutboundMs: 1_000,
    connectTimeoutInboundMs: 300,
    detectTimeoutOutboundMs: 10_000,
    policies: { byPort: [], fallback: policy('detect') },
    probes: [],
  };
}

describe('the memory pass', () => {
  let clock: VirtualClock;
  let lines: LogLine[];
  let client: PodState;
  let server: PodState;
  let context: WorkerContext;
  let network: Server;
  /** What the network does with a connection; as a rule the agent's other side takes it. */
  let answer: (permit: Socket) => void;
  let permits: Socket[];
  let endpoint: Endpoint;
  let granted: number;
  let pass: MemoryPass;
  let cut: number;
  let passenger: Passenger;
  const nothing = (): void => undefined;
  const readiness = plainReadiness();
  after(() => readiness.close());

  const grant = (permit: Socket): void => {
    const source = attachDataSource(permit);
    const decide = (bytes: Buffer): boolean => decodeTransportHeader(bytes).kind === 'header';
    collectBytes(source, null, { bytesMax: 1_000, timeoutMs: 1_000, clock, decide }, (_outcome, bytes) => {
      const decoded = decodeTransportHeader(bytes);
      assert.ok(decoded.kind === 'header');
      assert.equal(decoded.header.name, PERMIT_NAME);
      assert.equal(decoded.header.port, PORT);
      grantPermit(context, client, server, source, bytes.subarray(decoded.bytes));
    });
  };

  beforeEach(async () => {
    clock = new VirtualClock();
    lines = [];
    permits = [];
    granted = 0;
    cut = 0;
    const own: Passenger = {
      cut: () => {
        // The end of a test cuts its own, maybe when the next one has begun.
        if (passenger === own) cut++;
        pass.leave(own);
      },
    };
    passenger = own;
    answer = grant;
    network = createServer({ allowHalfOpen: true }, (accepted) => {
      permits.push(accepted);
      accepted.on('error', nothing);
      answer(accepted);
    });
    network.listen(0, '127.0.0.1');
    await once(network, 'listening');
    const take = (): number =>
      checked('socket', socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), 'a test');
    const spares = { take, close: nothing } as unknown as SpareSockets;
    client = new PodState(podOf('web', 1), spares, 'nodemesh');
    server = new PodState(podOf('api', 2), spares, 'nodemesh');
    context = {
      readiness,
      kernel: { markCarrier: nothing, handOver: nothing, closeDescriptor: close },
      clock,
      log: recordingLog(lines),
      keepAlive: { add: nothing },
      store: new MetricStore({ id: 'test', families: proxyFamilies, send: nothing, clock }),
      sameNode: 'memory',
      permitKey: Buffer.from('key'),
      podByUid: (uid: string) => (uid === 'api' && !server.gone ? server : undefined),
    } as unknown as WorkerContext;
    endpoint = {
      ip: '127.0.0.1',
      port: PORT,
      identity: 'api.shop',
      inboundPort: (network.address() as AddressInfo).port,
      weight: 1,
      labels: {},
      localPodUid: 'api',
    };
    pass = new MemoryPass(context, client, server, endpoint, () => granted++);
  });

  afterEach(async () => {
    pass.retire();
    for (const pod of [client, server]) await new Promise<void>((resolve) => pod.close(resolve));
    for (const permit of permits) permit.destroy();
    await new Promise((resolve) => network.close(resolve));
  });

  const opened = async (): Promise<number> => new Promise((resolve) => pass.whenOpen(resolve));
  const refuse = (permit: Socket): void => void permit.resetAndDestroy();
  /** Time passes; what the sockets then do is waited for. */
  const pass8Seconds = (): void => clock.advance(8_000);

  it('opens when the network lets a connection through to the agent, once for all that wait', async () => {
    assert.equal(pass.open, false);
    assert.deepEqual(await Promise.all([opened(), opened()]), [FAILURE_NONE, FAILURE_NONE]);
    assert.equal(pass.open, true);
    assert.equal(permits.length, 1);
    assert.equal(pass.gate.clientId, 'web.shop');
    assert.equal(pass.clientIdField.line, 'l5d-client-id: web.shop\r\n');
    assert.equal(pass.application.name, `127.0.0.1:${PORT}`);
    assert.equal(granted, 1);
  });

  it('is not opened by whoever else answers for the address', async () => {
    for (const impostor of [
      (permit: Socket) => permit.write(Buffer.alloc(32, 7)),
      (permit: Socket) => permit.write(Buffer.alloc(100)),
      (permit: Socket) => permit.end('short'),
      (permit: Socket) => {
        // It sends back what it got.
        permit.on('data', (bytes: Buffer) => permit.write(bytes.subarray(0, 32)));
      },
    ]) {
      answer = impostor;
      assert.equal(await opened(), FAILURE_CONNECT_OTHER);
      assert.equal(pass.open, false);
    }
    // The agent, but for another pod.
    answer = (permit) => {
      const other = new PodState(podOf('other', 3), server.spares, 'nodemesh');
      const source = attachDataSource(permit);
      const options = { bytesMax: 1_000, timeoutMs: 1_000, clock, decide: () => true };
      collectBytes(source, null, options, (_outcome, bytes) => {
        const decoded = decodeTransportHeader(bytes);
        assert.ok(decoded.kind === 'header');
        grantPermit(context, client, other, source, bytes.subarray(decoded.bytes));
      });
    };
    assert.equal(await opened(), FAILURE_CONNECT_OTHER);
    assert.equal(lines.filter(({ level }) => level === 'warn').length, 5);
  });

  it('stays shut when nobody answers in time, and is asked anew by the next request', async () => {
    answer = nothing;
    const waiting = opened();
    await until(() => (permits[0]?.bytesRead ?? 0) > 0);
    clock.advance(10_000);
    assert.equal(await waiting, FAILURE_CONNECT_OTHER);
    answer = grant;
    assert.equal(await opened(), FAILURE_NONE);
  });

  it('tells a refusal of the network as what it is', async () => {
    network.close();
    await once(network, 'close');
    assert.equal(await opened(), FAILURE_CONNECT_REFUSED);
    network.listen(0, '127.0.0.1');
    await once(network, 'listening');
  });

  it('asks again after 8 s in use, from another port, before it lets go of what it has', async () => {
    await opened();
    pass.enter(passenger);
    const [first] = permits;
    assert.ok(first !== undefined);
    pass8Seconds();
    await until(() => first.destroyed || first.readableEnded);
    assert.equal(permits.length, 2);
    assert.notEqual(permits[1]?.remotePort, first.remotePort);
    assert.equal(pass.open, true);
    assert.equal(cut, 0);
    pass.leave(passenger);
    // A request since then is use, too.
    pass8Seconds();
    await until(() => !pass.open);
    assert.equal(permits.length, 2, 'what nobody uses is given up');
    await until(() => permits[1]?.readableEnded === true || permits[1]?.destroyed === true);
    assert.equal(await opened(), FAILURE_NONE);
    pass.enter(passenger);
    pass.leave(passenger);
    pass8Seconds();
    await until(() => permits.length === 4);
    assert.equal(pass.open, true);
  });

  it('cuts what is in it when a later permit is refused twice', async () => {
    await opened();
    pass.enter(passenger);
    answer = refuse;
    pass8Seconds();
    await until(() => cut === 1);
    assert.equal(permits.length, 3);
    assert.equal(pass.open, false);
    assert.equal(lines.at(-1)?.fields['cut'], 1);
    assert.equal(granted, 1);
  });

  it('goes on when only the first of two is refused: a worker may have ended just then', async () => {
    await opened();
    pass.enter(passenger);
    answer = (permit) => {
      answer = grant;
      refuse(permit);
    };
    pass8Seconds();
    await until(() => granted === 2);
    assert.equal(pass.open, true);
    assert.equal(cut, 0);
  });

  it('holds new requests back while no new permit came within 10 s', async () => {
    await opened();
    pass.enter(passenger);
    answer = nothing;
    pass8Seconds();
    // The other side knows of the connection, too.
    await until(() => (permits[1]?.bytesRead ?? 0) > 0);
    clock.advance(1_999);
    assert.equal(pass.open, true);
    clock.advance(1);
    assert.equal(pass.open, false);
    const waiting = opened();
    assert.equal(cut, 0);
    grant(permits[1] as Socket);
    assert.equal(await waiting, FAILURE_NONE);
    assert.equal(pass.open, true);
  });

  it('asks at once when its permit is closed, and cuts if there is no other', async () => {
    await opened();
    pass.enter(passenger);
    permits[0]?.resetAndDestroy();
    await until(() => granted === 2);
    assert.equal(pass.open, true);
    answer = refuse;
    permits[1]?.end();
    await until(() => cut === 1);
    assert.equal(pass.open, false);
  });

  it('ends with either pod', async () => {
    await opened();
    pass.enter(passenger);
    assert.equal(pass.stands, true);
    const gone = new Promise<void>((resolve) => server.close(resolve));
    assert.equal(pass.stands, false);
    permits[0]?.destroy();
    await until(() => cut === 1);
    assert.equal(await opened(), FAILURE_CONNECT_OTHER);
    assert.equal(permits.length, 1, 'nothing is dialled');
    await gone;
  });

  it('keeps going for what is in it when the endpoint is taken out, and no longer', async () => {
    await opened();
    pass.enter(passenger);
    pass.retire();
    pass8Seconds();
    await until(() => granted === 2);
    assert.equal(pass.open, true);
    pass.leave(passenger);
    assert.equal(pass.open, false);
    await until(() => client.sockets.size === 0);
  });

  it('leads to HTTP of that very pod only', () => {
    const standing = (changes: Partial<WorkerPod>): boolean => {
      server.update({ ...podOf('api', 2), ...changes });
      return pass.stands;
    };
    assert.equal(standing({}), true);
    assert.equal(standing({ identity: 'other.shop' }), false);
    assert.equal(standing({ addresses: ['10.0.0.9'] }), false);
    assert.equal(standing({ opaquePorts: [{ first: PORT, last: PORT }] }), false);
    assert.equal(
      standing({ policies: { byPort: [[PORT, policy('opaque')]], fallback: policy('detect') } }),
      false,
    );
    assert.equal(standing({}), true);
    for (const port of [4143, 4190, 4191]) {
      assert.equal(new MemoryPass(context, client, server, { ...endpoint, port }, nothing).stands, false);
    }
  });
});
