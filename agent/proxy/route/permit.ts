// SPDX-License-Identifier: Apache-2.0
// The permit of the memory pass: a connection through the pods' network, dialled as one from another node would be, so
// that the network's policies answer for it. That somebody took it proves nothing (on a bridge a neighbour can answer for
// an address), so the server's side proves that it was the agent, for this pod.
//
//   client ── transport header, name = PERMIT_NAME ── nonce ──▶ server, by the kernel's voucher
//   client ◀────────────── HMAC(key, nonce, both pods) ─────── and then it stays open, silent, as long as it is of use

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { collectBytes } from '../detect/collect.ts';
import type { TcpSource } from '../exchange/byte-source.ts';
import { FAILURE_CONNECT_OTHER, FAILURE_NONE } from '../failure.ts';
import type { Endpoint } from '../model.ts';
import type { WorkerContext } from '../pods/context.ts';
import type { PodState } from '../pods/pod-state.ts';
import { encodeTransportHeader } from '../tls/transport-header.ts';
import { type Dialled, dialTcp } from './dial.ts';

/** Names no workload: what is no DNS name of a gateway is refused by any other proxy. */
export const PERMIT_NAME = 'permit.nodemesh.invalid';
const NONCE_BYTES = 16;
const PROOF_BYTES = 32;
/** The agent at the other end may be one that is just starting. */
const PROOF_TIMEOUT_MS = 10_000;

function proofOf(context: WorkerContext, nonce: Buffer, client: PodState, server: PodState): Buffer {
  const pods = [client, server].map(({ uid, pod }) => `${uid}\n${pod.podIndex}`).join('\n');
  return createHmac('sha256', context.permitKey).update(nonce).update(pods).digest();
}

/** Asks for a permit. The source that is called back with is open, and nothing may come from it any more. */
export function dialPermit(
  context: WorkerContext,
  client: PodState,
  server: PodState,
  endpoint: Endpoint,
  done: Dialled,
): void {
  const options = {
    ip: endpoint.ip,
    port: endpoint.inboundPort as number,
    timeoutMs: client.pod.connectTimeoutOutboundMs,
    mark: { kind: 'carrier', podIndex: client.pod.podIndex },
  } as const;
  dialTcp(context, client, options, (failure, source) => {
    if (source === null) {
      done(failure, null);
      return;
    }
    const nonce = randomBytes(NONCE_BYTES);
    source.socket.write(Buffer.concat([encodeTransportHeader(endpoint.port, 'http2', PERMIT_NAME), nonce]));
    collect(context, source, PROOF_BYTES, (proof) => {
      if (proof !== null && timingSafeEqual(proof, proofOf(context, nonce, client, server))) {
        stayOpen(source);
        done(FAILURE_NONE, source);
      } else {
        source.socket.destroy();
        done(FAILURE_CONNECT_OTHER, null);
      }
    });
  });
}

/** The server's side; `first` came after the header. */
export function grantPermit(
  context: WorkerContext,
  client: PodState,
  server: PodState,
  source: TcpSource,
  first: Buffer,
): void {
  collect(
    context,
    source,
    NONCE_BYTES,
    (nonce) => {
      if (nonce === null) {
        source.socket.destroy();
        return;
      }
      source.socket.write(proofOf(context, nonce, client, server));
      stayOpen(source);
    },
    first,
  );
}

/** Exactly so many bytes, or null. */
function collect(
  context: WorkerContext,
  source: TcpSource,
  bytes: number,
  done: (collected: Buffer | null) => void,
  first: Buffer | null = null,
): void {
  const options = {
    bytesMax: bytes,
    timeoutMs: PROOF_TIMEOUT_MS,
    clock: context.clock,
    decide: (collected: Buffer) => collected.length >= bytes,
  };
  collectBytes(source, first, options, (outcome, collected) =>
    done(outcome === 'decided' && collected.length === bytes ? collected : null),
  );
}

/** Until either side closes it; whatever comes closes it, too. */
function stayOpen(source: TcpSource): void {
  const { socket } = source;
  source.onBytes = () => socket.destroy();
  socket.on('end', () => socket.destroy());
  socket.resume();
}
