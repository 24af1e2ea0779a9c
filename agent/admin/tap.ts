// SPDX-License-Identifier: Apache-2.0
// `GET /tap?pod=NAMESPACE/NAME&max=N&headers=true` on the agent's Unix socket: what the pod's HTTP exchanges say, an
// event a line of JSON, until N requests have ended or the caller goes. Events for a caller that reads too slowly are
// left out and counted.

import type { IncomingMessage, ServerResponse } from 'node:http';

/** At the same time. */
const TAPS_MAX = 8;
const REQUESTS_DEFAULT = 100;
const REQUESTS_MAX = 10_000;
/** What waits for a slow reader. */
const UNREAD_BYTES_MAX = 1_048_576;

export interface TapWish {
  readonly requestsMax: number;
  readonly headers: boolean;
}

interface Event {
  readonly type: 'request' | 'response' | 'end';
}

export interface TapSource {
  /** `id` names the request, the same one in all its events. Undefined: there is no such pod here. */
  open(
    namespace: string,
    name: string,
    wish: TapWish,
    heard: (id: string, event: Event) => void,
  ): { close(): void } | undefined;
}

export class TapServer {
  /** Events that a reader was too slow for. */
  dropped = 0;
  /** Taps that were one too many. */
  refused = 0;
  readonly #source: TapSource;
  #open = 0;

  constructor(source: TapSource) {
    this.#source = source;
  }

  serve(request: IncomingMessage, response: ServerResponse): void {
    const query = new URL(request.url ?? '', 'http://agent').searchParams;
    const [, namespace = '', name = ''] = /^([^/]+)\/([^/]+)$/.exec(query.get('pod') ?? '') ?? [];
    const requestsMax = Number(query.get('max') ?? REQUESTS_DEFAULT);
    if (name === '' || !Number.isInteger(requestsMax) || requestsMax < 1 || requestsMax > REQUESTS_MAX) {
      end(response, 400, `expected pod=NAMESPACE/NAME and perhaps max=1 to ${REQUESTS_MAX}\n`);
      return;
    }
    if (this.#open >= TAPS_MAX) {
      this.refused++;
      end(response, 503, 'too many taps at once\n');
      return;
    }
    const begun = new Set<string>();
    const running = new Set<string>();
    const heard = (id: string, event: Event): void => {
      if (event.type === 'request') {
        // Each worker tells of as many as all of them may.
        if (!begun.has(id) && begun.size >= requestsMax) return;
        begun.add(id);
        running.add(id);
      } else if (!running.has(id)) return;
      if (event.type === 'end') running.delete(id);
      if (response.writableLength < UNREAD_BYTES_MAX) response.write(`${JSON.stringify({ ...event, id })}\n`);
      else this.dropped++;
      if (begun.size === requestsMax && running.size === 0) response.end();
    };
    const headers = query.get('headers') === 'true';
    const tap = this.#source.open(namespace, name, { requestsMax, headers }, heard);
    if (tap === undefined) {
      end(response, 404, `there is no pod ${namespace}/${name} on this node\n`);
      return;
    }
    this.#open++;
    response.once('close', () => {
      this.#open--;
      tap.close();
    });
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.flushHeaders();
  }
}

function end(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(text);
}
