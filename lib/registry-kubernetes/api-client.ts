// SPDX-License-Identifier: Apache-2.0
// Calls of the Kubernetes API as JSON over HTTPS: one answer, or the lines of a watch. Knows no kinds. Every call
// has a time limit and every answer a size limit; nothing is tried again here.

import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from 'node:http';
import { Agent as HttpsAgent, request as requestHttps, type RequestOptions } from 'node:https';
import type { Clock } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { ApiAccess } from './api-access.ts';
import { ApiFailure, asFailure, failureOf } from './api-failure.ts';

export interface ApiCall {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** `/api/v1/pods` */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly contentType?: string;
  readonly accept?: string;
  readonly timeoutMs?: number;
}

export interface ApiStream {
  /** Resolves when the server ended the watch; rejects with an ApiFailure. */
  readonly ended: Promise<void>;
  abort(): void;
}

export interface KubernetesApi {
  /** The JSON of the answer; rejects with an ApiFailure. */
  call(call: ApiCall): Promise<unknown>;
  /** An answer that is no JSON (a pod's, through the API server). */
  text(call: ApiCall): Promise<string>;
  /** Calls `line` with each JSON value; what it throws ends the stream. `silentMsMax`: without a line for so long. */
  stream(call: ApiCall, line: (value: unknown) => void, silentMsMax: number): ApiStream;
  close(): void;
}

export interface ApiClientOptions {
  readonly access: ApiAccess;
  readonly clock: Clock;
  readonly userAgent: string;
}

const CALL_TIMEOUT_MS = 30_000;
/** Pages are small; this is for a server that ignores their limit. */
const ANSWER_BYTES_MAX = 512 * 1024 * 1024;
/** etcd holds no object above 1.5 MB; JSON is longer. */
const LINE_BYTES_MAX = 16 * 1024 * 1024;
const CALLS_AT_ONCE_MAX = 32;

export function createApiClient(options: ApiClientOptions): KubernetesApi {
  const { access, clock } = options;
  const base = new URL(access.server);
  const plain = base.protocol === 'http:';
  const keepAlive = { keepAlive: true, keepAliveMsecs: 15_000 };
  // A watch holds its connection: watches must not use up those of calls.
  const agents = plain
    ? {
        calls: new HttpAgent({ ...keepAlive, maxSockets: CALLS_AT_ONCE_MAX }),
        streams: new HttpAgent(keepAlive),
      }
    : {
        calls: new HttpsAgent({ ...keepAlive, maxSockets: CALLS_AT_ONCE_MAX }),
        streams: new HttpsAgent(keepAlive),
      };
  const closing = new AbortController();

  const nameOf = (call: ApiCall): string => `${call.method ?? 'GET'} ${call.path}`;

  const open = async (
    call: ApiCall,
    agent: HttpAgent | HttpsAgent,
    signal: AbortSignal,
    fresh = false,
  ): Promise<IncomingMessage> => {
    const { headers, ...tls } = await access.credentials(fresh);
    const body = call.body === undefined ? undefined : Buffer.from(JSON.stringify(call.body));
    const query = call.query === undefined ? '' : `?${new URLSearchParams(call.query).toString()}`;
    const request: RequestOptions = {
      ...tls,
      agent,
      signal,
      host: base.hostname.replace(/^\[|\]$/g, ''),
      port: base.port === '' ? (plain ? 80 : 443) : base.port,
      path: `${base.pathname.replace(/\/$/, '')}${call.path}${query}`,
      method: call.method ?? 'GET',
      headers: {
        ...headers,
        accept: call.accept ?? 'application/json',
        'user-agent': options.userAgent,
        ...(body === undefined
          ? {}
          : { 'content-type': call.contentType ?? 'application/json', 'content-length': body.length }),
      },
    };
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const sent = (plain ? requestHttp : requestHttps)(request, resolve);
      sent.on('error', reject);
      sent.end(body);
    });
    if (response.statusCode === 401 && !fresh) {
      // The token may have been renewed since it was read.
      response.resume();
      return await open(call, agent, signal, true);
    }
    return response;
  };

  const failed = async (response: IncomingMessage, call: ApiCall): Promise<ApiFailure> => {
    const text = await readAll(response, ANSWER_BYTES_MAX);
    let body: unknown = { message: text.subarray(0, 200).toString() };
    if (response.headers['content-type']?.startsWith('application/json') === true) {
      body = parseJson(text, nameOf(call));
    }
    return failureOf(response.statusCode ?? 0, body, nameOf(call), response.headers['retry-after']);
  };

  const answer = async <T>(call: ApiCall, read: (body: Buffer) => T): Promise<T> => {
    const timeoutMs = call.timeoutMs ?? CALL_TIMEOUT_MS;
    const late = new AbortController();
    const timer = clock.after(timeoutMs, () =>
      late.abort(new ApiFailure(0, 'Timeout', `${nameOf(call)}: no answer within ${timeoutMs} ms`)),
    );
    const signal = AbortSignal.any([late.signal, closing.signal]);
    try {
      const response = await open(call, agents.calls, signal);
      if ((response.statusCode ?? 0) >= 300) throw await failed(response, call);
      return read(await readAll(response, ANSWER_BYTES_MAX));
    } catch (error) {
      throw asFailure(signal.aborted ? (signal.reason as unknown) : error, nameOf(call));
    } finally {
      timer.cancel();
    }
  };

  return {
    call: (call) => answer(call, (body) => parseJson(body, nameOf(call))),
    text: (call) => answer({ accept: '*/*', ...call }, String),

    stream(call, line, silentMsMax) {
      const own = new AbortController();
      const signal = AbortSignal.any([own.signal, closing.signal]);
      const name = nameOf(call);
      const silent = (): void =>
        own.abort(new ApiFailure(0, 'Silent', `${name}: nothing heard for ${silentMsMax} ms`));
      // The server answers a watch at once; a connect may have been led to nobody.
      const openMs = Math.min(silentMsMax, CALL_TIMEOUT_MS);
      let timer = clock.after(openMs, () =>
        own.abort(new ApiFailure(0, 'Timeout', `${name}: no answer within ${openMs} ms`)),
      );
      let heardMs = clock.nowMs();
      // One timer for many lines.
      const watchdog = (): void => {
        const leftMs = silentMsMax - (clock.nowMs() - heardMs);
        if (leftMs <= 0) silent();
        else timer = clock.after(leftMs, watchdog);
      };
      const run = async (): Promise<void> => {
        try {
          const response = await open(call, agents.streams, signal);
          if ((response.statusCode ?? 0) >= 300) throw await failed(response, call);
          heardMs = clock.nowMs();
          timer.cancel();
          timer = clock.after(silentMsMax, watchdog);
          await readLines(response, (text) => {
            heardMs = clock.nowMs();
            line(parseJson(text, name));
          });
        } catch (error) {
          throw asFailure(signal.aborted ? (signal.reason as unknown) : error, name);
        } finally {
          timer.cancel();
        }
      };
      return { ended: run(), abort: () => own.abort(new ApiFailure(0, 'Closed', `${name}: closed`)) };
    },

    close() {
      closing.abort(new ApiFailure(0, 'Closed', 'the client is closed'));
      agents.calls.destroy();
      agents.streams.destroy();
    },
  };
}

async function readAll(response: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > bytesMax) throw new ApiFailure(0, 'TooLong', `the answer has more than ${bytesMax} bytes`);
    chunks.push(chunk);
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
}

async function readLines(response: IncomingMessage, line: (text: Buffer) => void): Promise<void> {
  let parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const last = chunk.subarray(start, end);
      const whole = parts.length === 0 ? last : Buffer.concat([...parts, last]);
      parts = [];
      bytes = 0;
      start = end + 1;
      if (whole.length > 0) line(whole);
    }
    if (start < chunk.length) {
      parts.push(chunk.subarray(start));
      bytes += chunk.length - start;
      if (bytes > LINE_BYTES_MAX) {
        throw new ApiFailure(0, 'TooLong', `a line of the watch has more than ${LINE_BYTES_MAX} bytes`);
      }
    }
  }
  if (bytes > 0) throw new ApiFailure(0, 'Cut', 'the watch ended within a line');
}

function parseJson(text: Buffer, call: string): unknown {
  try {
    return JSON.parse(text.toString('utf8')) as unknown;
  } catch (error) {
    throw new ApiFailure(0, 'Garbage', `${call}: the answer is no JSON: ${errorMessage(error)}`);
  }
}
