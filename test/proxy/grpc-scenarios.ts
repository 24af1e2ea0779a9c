// SPDX-License-Identifier: Apache-2.0
// What must hold for gRPC, whatever is between the two sides: all kinds of calls, how they end, and how their ends are
// counted. One scene a process, so a test file for each way.

import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { status as codes } from '@grpc/grpc-js';
import { after, before, describe, test } from 'node:test';
import { type EchoApplication, EchoClient, outcomeOf, serveEcho, statusOf } from './grpc-peers.ts';
import { endpoint, identityOf, meshedOnly, patientClock, until, untilMetric } from './harness.ts';
import { createScene, HTTP2_PORT, type Scene, SERVER, type ServiceName } from './scene.ts';

const {
  OK,
  DEADLINE_EXCEEDED,
  NOT_FOUND,
  PERMISSION_DENIED,
  FAILED_PRECONDITION,
  INTERNAL,
  UNAVAILABLE,
  CANCELLED,
} = codes;

export function describeGrpc(title: string, sameNode?: 'memory'): void {
  describe(title, () => {
    let scene: Scene;
    let server: EchoApplication;
    const clients: EchoClient[] = [];
    const clientOf = (name: ServiceName = 'http2'): EchoClient => {
      const client = new EchoClient(name);
      clients.push(client);
      return client;
    };

    before(async () => {
      scene = await createScene({ failfastMs: 200, ...(sameNode === undefined ? {} : { sameNode }) });
      server = await serveEcho(scene.serverNs, SERVER, HTTP2_PORT);
    });
    after(async () => {
      for (const client of clients) client.close();
      await scene.close();
      server.close();
    });

    /** One response that ended so, on both sides. */
    const counted = async (labels: string): Promise<void> => {
      await untilMetric(
        scene.client,
        new RegExp(`response_total\\{direction="outbound",[^}]*${labels}[^}]*\\} \\d`),
      );
      await untilMetric(
        scene.server,
        new RegExp(`response_total\\{direction="inbound",[^}]*${labels}[^}]*\\} \\d`),
      );
    };

    test('unary: message, trailers, and the identity of the mesh', async () => {
      const { messages, status } = await clientOf().unary('hello');
      assert.equal(status.code, OK, status.details);
      assert.equal(String(messages[0]), 'hello');
      assert.deepEqual(status.metadata.get('x-key-bin'), [Buffer.from([0, 255])]);
      assert.deepEqual(status.metadata.get('x-seen'), [identityOf('web')]);
      await counted('status_code="200",classification="success",grpc_status="0"');
    });

    test('a failure is classified by its status, which comes in the head alone', async () => {
      const client = clientOf();
      for (const [code, classification] of [
        [NOT_FOUND, 'success'],
        [INTERNAL, 'failure'],
      ] as const) {
        const { status } = await client.unary(`fail ${code}`);
        assert.equal(status.code, code);
        assert.equal(status.details, `as asked: ${code}`);
        await counted(`status_code="200",classification="${classification}",grpc_status="${code}"`);
      }
    });

    test('client streaming, also when the server stops it', async () => {
      const client = clientOf();
      const piece = Buffer.alloc(10_000, 'x');
      const whole = await client.upload(Array.from({ length: 100 }, () => piece));
      assert.equal(whole.status.code, OK, whole.status.details);
      assert.equal(String(whole.messages[0]), '1000000');
      const stopped = await client.upload([Buffer.from('stop'), ...Array.from({ length: 100 }, () => piece)]);
      assert.equal(stopped.status.code, FAILED_PRECONDITION);
    });

    test('server streaming, also when it fails after messages', async () => {
      const client = clientOf();
      const whole = await outcomeOf(client.download('500'));
      assert.equal(whole.status.code, OK, whole.status.details);
      assert.equal(whole.messages.length, 500);
      assert.equal(String(whole.messages[499]), 'message 499');
      const failed = await outcomeOf(client.download(`3 ${INTERNAL}`));
      assert.equal(failed.status.code, INTERNAL);
      assert.equal(failed.messages.length, 3);
    });

    test('both sides streaming, message by message', async () => {
      const requests = Array.from({ length: 50 }, (_, index) => Buffer.from(`turn ${index}`));
      const { status, messages } = await clientOf().both(requests);
      assert.equal(status.code, OK, status.details);
      assert.deepEqual(messages, requests);
    });

    test('messages of 8 MiB', async () => {
      const message = Buffer.alloc(8_388_608, 'abcdefgh');
      const { status, messages } = await clientOf().unary(message);
      assert.equal(status.code, OK, status.details);
      assert.ok(messages[0]?.equals(message));
    });

    test('hundred calls at once', async () => {
      const client = clientOf();
      const outcomes = await Promise.all(
        Array.from({ length: 100 }, async (_, index) => client.unary(`call ${index}`)),
      );
      outcomes.forEach(({ messages }, index) => assert.equal(String(messages[0]), `call ${index}`));
    });

    test('a deadline ends the call at both ends', async () => {
      const before = server.cancelled.length;
      const { status } = await clientOf().unary('wait', 150);
      assert.equal(status.code, DEADLINE_EXCEEDED);
      await until(() => server.cancelled.length > before, 'the end at the server');
    });

    test('a call that the client gives up ends at the server', async () => {
      const client = clientOf();
      const before = server.cancelled.length;
      const call = client.download('1 wait');
      call.on('error', () => undefined);
      await once(call, 'data');
      call.cancel();
      await until(() => server.cancelled.length > before, 'the end at the server');
      const giveUp = new AbortController();
      const outcome = client.unary('wait', undefined, giveUp.signal);
      setImmediate(() => giveUp.abort());
      assert.equal((await outcome).status.code, CANCELLED);
    });

    test('a server that dies in the middle is unavailable, never a success', async () => {
      const call = clientOf().download('2 wait');
      await once(call, 'data');
      const outcome = outcomeOf(call);
      for (const socket of server.sockets.splice(0)) socket.resetAndDestroy();
      const { status } = await outcome;
      assert.equal(status.code, UNAVAILABLE);
      assert.equal(status.details, 'connection closed before the response');
    });

    // On one node there is one agent.
    for (const side of sameNode === undefined ? (['client', 'server'] as const) : (['client'] as const)) {
      test(`a drain of the ${side}'s agent lets open streams go on to their end, later calls go over other connections`, async () => {
        const { worker, sent } = scene[side];
        const drained = (): boolean => sent.some(({ type }) => type === 'drained');
        const client = clientOf();
        const call = client.talk();
        const ended = statusOf(call);
        const say = async (text: string): Promise<void> => {
          const answered = once(call, 'data') as Promise<[Buffer]>;
          call.write(Buffer.from(text));
          assert.equal(String((await answered)[0]), text);
        };
        await say('before');
        sent.length = 0;
        worker.handle({ type: 'drain', graceMs: 60_000 });
        // Until well behind the end of connections that are idle.
        const untilMs = patientClock.nowMs() + 6_500;
        for (let turn = 0; patientClock.nowMs() < untilMs; turn++) {
          await say(`turn ${turn}`);
          const { status } = await (turn % 2 === 0 ? client : clientOf()).unary(`call ${turn}`);
          assert.equal(status.code, OK, status.details);
        }
        assert.equal(drained(), false);
        await say('after');
        call.end();
        assert.equal((await ended).code, OK);
        // In memory the way to the application is left only when the way in is: after twice the time.
        await until(drained, 'the end of the drain', 120_000);
        assert.equal(worker.connections, 0);
        worker.handle({ type: 'resume' });
      });
    }

    test('a drain that is over does not wait for a stream that is not, nor does it cut it', async () => {
      const { worker, sent } = scene.client;
      const call = clientOf().download('1 wait');
      call.on('error', () => undefined);
      await once(call, 'data');
      sent.length = 0;
      worker.handle({ type: 'drain', graceMs: 300 });
      await until(() => sent.some(({ type }) => type === 'drained'), 'the end of the drain');
      assert.ok(worker.connections > 0);
      worker.handle({ type: 'resume' });
      const cancelled = server.cancelled.length;
      call.cancel();
      await until(() => server.cancelled.length > cancelled, 'the end at the server');
    });

    test('what the proxy answers itself is in the form of gRPC', async () => {
      scene.lead('peer', [
        endpoint(SERVER, 1234, {
          identity: identityOf('api'),
          inboundPort: 4143,
          http2: true,
          localPodUid: sameNode === undefined ? undefined : scene.serverPod.uid,
        }),
      ]);
      const cases: readonly [ServiceName, number, string][] = [
        // Nothing listens there, which only the server's side knows; nobody is there; nobody knows.
        ['peer', DEADLINE_EXCEEDED, 'service in fail-fast'],
        ['empty', DEADLINE_EXCEEDED, 'service in fail-fast'],
        ['silent', UNAVAILABLE, 'destination cannot be resolved now'],
      ];
      for (const [name, code, details] of cases) {
        const { status } = await clientOf(name).unary('hello');
        assert.equal(status.code, code, `${name}: ${status.details}`);
        assert.equal(status.details, details);
        // What another proxy said is taken out.
        const own = name === 'peer' ? undefined : details;
        assert.equal(status.metadata.get('l5d-proxy-error')[0], own);
      }
      await untilMetric(
        scene.client,
        /response_total\{direction="outbound",[^}]*classification="failure",grpc_status="4"/,
      );
    });

    test('who may not is denied in the form of gRPC', async () => {
      scene.setPolicy({
        authorizations: [
          { ...meshedOnly, authentication: { kind: 'tls', identities: [identityOf('other')], suffixes: [] } },
        ],
      });
      try {
        const { status } = await clientOf().unary('hello');
        assert.equal(status.code, PERMISSION_DENIED);
      } finally {
        scene.setPolicy({});
      }
    });

    if (sameNode === 'memory') {
      test('nothing of all this travelled: the only connections between the pods are the permits', async () => {
        const granted = /nodemesh_same_node_permits_total\{result="granted"[^}]*pod="web-0"[^}]*\} (\d+)/;
        const [, permits] = await untilMetric(scene.client, granted);
        assert.equal(scene.client.kernel.vouchers.size, Number(permits));
        await untilMetric(
          scene.client,
          /request_total\{direction="outbound",[^}]*server_id="api\.shop[^"]*",same_node="true"/,
        );
      });
    }
  });
}
