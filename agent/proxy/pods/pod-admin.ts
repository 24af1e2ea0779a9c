// SPDX-License-Identifier: Apache-2.0
// A pod's own port 4191: /live, /ready and /metrics of this pod alone. The text of the metrics is the control
// thread's, which sums all workers; it is asked for by ticket.

import type { IncomingHttpHeaders, IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '#lib/core/clock.ts';
import { encodeExposition, type Exposition, expositionFor } from '#lib/metrics/exposition.ts';
import { GRPC_NONE } from '../exchange/types.ts';
import { FAILURE_NONE } from '../failure.ts';
import type { FromWorker } from '../model.ts';
import type { AdminVisit } from './context.ts';
import type { PodState } from './pod-state.ts';

// Not imported: an import of node:http reads all it exports, and so loads fetch and WebSocket, 5 MB a thread.
const { createServer } = process.getBuiltinModule('node:http');

const METRICS_TIMEOUT_MS = 5_000;
/** One request each; whoever has not asked and read by then is cut off. */
const CONNECTION_MS = 15_000;
const WAITING_MAX = 64;

interface Served extends AdminVisit {
  readonly pod: PodState;
}

export class PodAdmin {
  readonly #server: Server;
  readonly #served = new WeakMap<Socket, Served>();
  readonly #waiting = new Map<number, (text: string | undefined) => void>();
  readonly #post: (message: FromWorker) => void;
  readonly #clock: Clock;
  readonly #ready: (pod: PodState) => boolean;
  #ticket = 0;

  constructor(post: (message: FromWorker) => void, clock: Clock, ready: (pod: PodState) => boolean) {
    this.#post = post;
    this.#clock = clock;
    this.#ready = ready;
    // Its own timeouts work in servers that listen, and this one never does.
    this.#server = createServer({ maxHeaderSize: 8192 }, (request, response) => {
      const served = this.#served.get(request.socket);
      request.resume();
      if (served === undefined) {
        response.destroy();
        return;
      }
      const begunMs = clock.nowMs();
      const { metrics } = served;
      metrics.requestStarted();
      response.once('close', () => {
        metrics.firstBody(response.statusCode, clock.nowMs() - begunMs);
        metrics.responseEnded(response.statusCode, FAILURE_NONE, GRPC_NONE);
      });
      this.#answer(served, request, response);
    });
  }

  /** Takes over a paused connection of which nothing was read (or the read part was unshifted). */
  serve(pod: PodState, socket: Socket, visit: AdminVisit): void {
    this.#served.set(socket, { pod, ...visit });
    const deadline = this.#clock.after(CONNECTION_MS, () => socket.destroy());
    socket.once('close', () => {
      deadline.cancel();
      visit.metrics.close();
    });
    this.#server.emit('connection', socket);
    socket.resume();
  }

  /** The control thread's answer. */
  onMetrics(ticket: number, text: string): void {
    const deliver = this.#waiting.get(ticket);
    this.#waiting.delete(ticket);
    deliver?.(text);
  }

  #answer({ pod, metricsAllowed }: Served, request: IncomingMessage, response: ServerResponse): void {
    switch ((request.url ?? '').split('?', 1)[0] ?? '') {
      case '/live':
        plain(response, 200, 'live\n');
        return;
      case '/ready':
        if (this.#ready(pod)) plain(response, 200, 'ready\n');
        else plain(response, 503, 'not ready\n');
        return;
      case '/metrics':
        if (metricsAllowed()) this.#metrics(pod, request, response);
        else plain(response, 403, '');
        return;
      default:
        plain(response, 404, '');
    }
  }

  #metrics(pod: PodState, request: IncomingMessage, response: ServerResponse): void {
    if (this.#waiting.size >= WAITING_MAX) {
      plain(response, 503, '');
      return;
    }
    const exposition = expositionFor(request.headers);
    const ticket = ++this.#ticket;
    const timer = this.#clock.after(METRICS_TIMEOUT_MS, () => {
      this.#waiting.delete(ticket);
      plain(response, 503, '');
    });
    this.#waiting.set(ticket, (text) => {
      timer.cancel();
      void sendMetrics(response, text ?? '', exposition, request.headers);
    });
    this.#post({ type: 'pod-metrics-wanted', ticket, uid: pod.uid, exposition });
  }
}

async function sendMetrics(
  response: ServerResponse,
  text: string,
  exposition: Exposition,
  wishes: IncomingHttpHeaders,
): Promise<void> {
  const { body, headers } = await encodeExposition(text, exposition, wishes);
  response.writeHead(200, { ...headers, 'content-length': body.length, connection: 'close' });
  response.end(body);
}

function plain(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': Buffer.byteLength(text),
    connection: 'close',
  });
  response.end(text);
}
