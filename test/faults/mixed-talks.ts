// SPDX-License-Identifier: Apache-2.0
// One connection of each protocol of the mixed load: asked a nonce it tells the answer, or how it ended. Who asks
// when, and what that means, is mixed-engine.ts'.

import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  constants,
} from 'node:http2';
import { connect } from 'node:net';
import { errnoName } from '#lib/core/errors.ts';
import { parseAnswer } from './load-engine.ts';

export const mixedKinds = [
  'http1-kept',
  'http1-new',
  'http2',
  'grpc-unary',
  'grpc-stream',
  'websocket',
  'tcp',
  'server-first',
] as const;
export type MixedKind = (typeof mixedKinds)[number];

export interface MixedTarget {
  readonly host: string;
  readonly httpPort: number;
  readonly http2Port: number;
  readonly tcpPort: number;
  readonly firstPort: number;
}

export interface TalkEvents {
  answer(text: string): void;
  /** An answer that says no: status, l5d-proxy-error, grpc-status. */
  bad(detail: string): void;
  /**
   * Once, and nothing after it. `polite`: the other side announced it and owes nothing; `again`: nor has it looked at
   * what was asked last, as it says itself.
   */
  end(how: string, polite: boolean, again?: boolean): void;
}

export interface Talk {
  /** False: this connection takes no more, which was announced; ask another one. */
  ask(nonce: string): boolean;
  close(): void;
}

const howOf = (error: Error): string => errnoName(error) ?? error.message;

/** `end` of the events at most once, and nothing after `close`. */
function guarded(events: TalkEvents): TalkEvents & { over: boolean } {
  const guard = {
    over: false,
    answer: (text: string) => {
      if (!guard.over) events.answer(text);
    },
    bad: (detail: string) => {
      if (!guard.over) events.bad(detail);
    },
    end: (how: string, polite: boolean, again = false) => {
      if (guard.over) return;
      guard.over = true;
      events.end(how, polite, again);
    },
  };
  return guard;
}

/** Plain sockets: lines, or HTTP/1.1. */
function openSocket(
  { host, httpPort, tcpPort, firstPort }: MixedTarget,
  kind: 'http1' | 'tcp' | 'server-first',
  plain: TalkEvents,
): Talk {
  const events = guarded(plain);
  const port = { http1: httpPort, tcp: tcpPort, 'server-first': firstPort }[kind];
  const socket = connect({ host, port, noDelay: true });
  let received = '';
  let greeted = kind !== 'server-first';
  let waiting: string | undefined;
  let announced = false;
  const send = (nonce: string): void => {
    socket.write(
      kind === 'http1'
        ? `GET / HTTP/1.1\r\nhost: ${host}:${httpPort}\r\nx-nonce: ${nonce}\r\n\r\n`
        : `${nonce}\n`,
    );
  };
  socket.setEncoding('latin1');
  socket.on('data', (text: string) => {
    received += text;
    if (!greeted) {
      const end = received.indexOf('\n');
      if (end < 0) return;
      received = received.slice(end + 1);
      greeted = true;
      if (waiting !== undefined) send(waiting);
    }
    if (received === '') return;
    const parsed = parseAnswer(received, kind === 'http1');
    if (parsed === undefined) return;
    announced = /\r\nconnection: close\r\n/i.test(received);
    received = '';
    if ('bad' in parsed) events.bad(parsed.bad);
    else events.answer(parsed.answer.nonce);
  });
  socket.on('error', (error) => events.end(howOf(error), false));
  socket.on('end', () => events.end('FIN', kind === 'http1'));
  socket.on('close', () => events.end('closed', announced));
  return {
    ask: (nonce) => {
      if (greeted) send(nonce);
      else waiting = nonce;
      return true;
    },
    close: () => {
      events.over = true;
      socket.destroy();
    },
  };
}

const framed = (text: string): Buffer => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(Buffer.byteLength(text), 1);
  return Buffer.concat([head, Buffer.from(text)]);
};

/** A connection of its own with HTTP/2: requests, gRPC's single calls, or one gRPC stream to its end. */
function openHttp2(
  { host, http2Port }: MixedTarget,
  kind: 'http2' | 'grpc-unary' | 'grpc-stream',
  plain: TalkEvents,
): Talk {
  const events = guarded(plain);
  const session: ClientHttp2Session = connectHttp2(`http://${host}:${http2Port}`);
  let away = false;
  let kept: ClientHttp2Stream | undefined;
  session.on('goaway', (code: number) => (away = code === constants.NGHTTP2_NO_ERROR));
  session.on('error', (error: Error) => events.end(howOf(error), false));
  session.on('close', () => events.end(away ? 'GOAWAY' : 'closed', away && kind !== 'grpc-stream'));
  const open = (headers: Record<string, string>): ClientHttp2Stream => {
    const grpc = kind !== 'http2';
    const stream = session.request(
      {
        ':method': grpc ? 'POST' : 'GET',
        ':path': grpc ? '/test.Echo/Say' : '/',
        ...(grpc ? { 'content-type': 'application/grpc', te: 'trailers' } : {}),
        ...headers,
      },
      { endStream: false },
    );
    stream.on('error', (error) => {
      // RFC 9113 8.7: it was not processed, and is sent again by every client.
      if (stream.rstCode === constants.NGHTTP2_REFUSED_STREAM) events.end('refused', true, true);
      else if (errnoName(error) === 'ERR_HTTP2_STREAM_ERROR') events.bad(`reset ${stream.rstCode}`);
      else events.end(howOf(error), false);
    });
    stream.on('response', (fields) => {
      if (fields[':status'] !== 200)
        events.bad(`${fields[':status']} (${String(fields['l5d-proxy-error'])})`);
      else if (fields['grpc-status'] !== undefined)
        events.bad(`grpc-status ${String(fields['grpc-status'])} ${String(fields['grpc-message'])}`);
    });
    return stream;
  };
  const single = (nonce: string): void => {
    const stream = open({ 'x-nonce': nonce });
    const chunks: Buffer[] = [];
    let status = kind === 'http2' ? '0' : 'none';
    stream.on('trailers', (fields) => (status = String(fields['grpc-status'])));
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    // Not 'end', which comes also when the connection breaks.
    stream.on('close', () => {
      if (stream.rstCode !== constants.NGHTTP2_NO_ERROR || session.destroyed)
        return events.end(`cut off (${stream.rstCode})`, false);
      const text = Buffer.concat(chunks).toString();
      if (status !== '0') events.bad(`grpc-status ${status}`);
      else events.answer(kind === 'http2' ? text : text.slice(5));
    });
    stream.end(kind === 'http2' ? undefined : framed(nonce));
  };
  const streamed = (nonce: string): void => {
    if (kept === undefined) {
      kept = open({});
      let received = Buffer.alloc(0);
      kept.on('data', (chunk: Buffer) => {
        received = Buffer.concat([received, chunk]);
        if (received.length < 5 || received.length < 5 + received.readUInt32BE(1)) return;
        const text = received.toString('utf8', 5);
        received = Buffer.alloc(0);
        events.answer(text);
      });
      kept.on('trailers', (fields) => events.bad(`grpc-status ${String(fields['grpc-status'])} too early`));
      kept.on('close', () => events.end('the stream ended', false));
    }
    kept.write(framed(nonce));
  };
  return {
    ask: (nonce) => {
      // A stream goes on to its end when its connection takes no others.
      if (kept === undefined && (session.destroyed || session.closed)) return false;
      if (kind === 'grpc-stream') streamed(nonce);
      else single(nonce);
      return true;
    },
    close: () => {
      events.over = true;
      session.destroy();
    },
  };
}

function openWebSocket({ host, httpPort }: MixedTarget, plain: TalkEvents): Talk {
  const events = guarded(plain);
  const socket = new WebSocket(`ws://${host}:${httpPort}/`);
  let waiting: string | undefined;
  socket.addEventListener('open', () => {
    if (waiting !== undefined) socket.send(waiting);
    waiting = undefined;
  });
  socket.addEventListener('message', ({ data }) => events.answer(String(data)));
  socket.addEventListener('close', ({ code }) => events.end(`closed with ${code}`, false));
  return {
    ask: (nonce) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(nonce);
      else waiting = nonce;
      return true;
    },
    close: () => {
      events.over = true;
      socket.close();
    },
  };
}

export function openTalk(kind: MixedKind, target: MixedTarget, events: TalkEvents): Talk {
  switch (kind) {
    case 'http1-kept':
    case 'http1-new':
      return openSocket(target, 'http1', events);
    case 'tcp':
    case 'server-first':
      return openSocket(target, kind, events);
    case 'websocket':
      return openWebSocket(target, events);
    case 'http2':
    case 'grpc-unary':
    case 'grpc-stream':
      return openHttp2(target, kind, events);
  }
}
