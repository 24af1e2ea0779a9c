// SPDX-License-Identifier: Apache-2.0
// One connection of somebody who means no good, described as data: what it dials, which certificate it shows, what
// it sends; and what became of it. Judges nothing.

import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';

export interface TlsClient {
  /** SNI; none if absent. */
  readonly serverName?: string;
  readonly chainPem?: string;
  readonly keyPem?: string;
  readonly alpn?: string;
  readonly versionMax?: 'TLSv1.2' | 'TLSv1.3';
}

export interface Attempt {
  /** A Unix socket's path, or an address with a port. */
  readonly to: string | { readonly host: string; readonly port: number };
  readonly tls?: TlsClient;
  /** What is sent, base64; pieces leave one by one. */
  readonly send?: readonly string[];
  /** Instead of `send`, behind TLS: one gRPC call with this body (base64). */
  readonly call?: { readonly path: string; readonly body: string };
  /** What follows: FIN, RST, or nothing. */
  readonly ending?: 'fin' | 'reset';
  /** How long it waits for the other side to end the connection. */
  readonly patienceMs?: number;
}

export interface Outcome {
  /** `open`: the other side did nothing until patience was over. `refused`: never connected. */
  readonly ended: 'fin' | 'reset' | 'refused' | 'open';
  /** The TLS handshake succeeded, as far as the client can know. */
  readonly secured: boolean;
  /** Base64. */
  readonly received: string;
  readonly error: string;
  readonly afterMs: number;
}

const PATIENCE_MS = 30_000;

export function tryConnection(attempt: Attempt): Promise<Outcome> {
  return new Promise((resolve) => {
    const started = performance.now();
    const chunks: Buffer[] = [];
    let ended: Outcome['ended'] = 'refused';
    let error = '';
    let secured = false;
    let settled = false;
    const raw =
      typeof attempt.to === 'string'
        ? connectTcp({ path: attempt.to, allowHalfOpen: true })
        : connectTcp({ ...attempt.to, allowHalfOpen: true });
    let top: Socket | TLSSocket = raw;
    const settle = (): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      top.destroy();
      raw.destroy();
      const received = Buffer.concat(chunks).toString('base64');
      resolve({ ended, secured, received, error, afterMs: Math.round(performance.now() - started) });
    };
    const timer = setTimeout(() => {
      ended = 'open';
      settle();
    }, attempt.patienceMs ?? PATIENCE_MS);
    const onEnd = (): void => {
      ended = 'fin';
      settle();
    };
    const onError = (problem: NodeJS.ErrnoException): void => {
      error ||= problem.message;
      if (ended !== 'refused') ended = 'reset';
      settle();
    };
    raw.on('error', onError);
    raw.once('close', settle);
    raw.once('connect', () => {
      // Unless something else happens, the connection ends like this.
      ended = 'fin';
      if (attempt.tls === undefined) {
        raw.on('data', (chunk: Buffer) => chunks.push(chunk));
        raw.once('end', onEnd);
        act(raw, raw, attempt);
        return;
      }
      const { serverName, alpn, chainPem, keyPem, versionMax } = attempt.tls;
      const secure = connectTls({
        socket: raw,
        rejectUnauthorized: false,
        ...(serverName === undefined ? {} : { servername: serverName }),
        ...(alpn === undefined ? {} : { ALPNProtocols: [alpn] }),
        ...(chainPem === undefined ? {} : { cert: chainPem, key: keyPem }),
        ...(versionMax === undefined ? {} : { maxVersion: versionMax }),
      });
      top = secure;
      secure.on('error', onError);
      secure.once('close', settle);
      secure.once('secureConnect', () => {
        secured = true;
        if (attempt.call !== undefined) {
          callGrpc(secure, attempt.call, (answer) => {
            chunks.push(Buffer.from(answer));
            settle();
          });
          return;
        }
        secure.on('data', (chunk: Buffer) => chunks.push(chunk));
        secure.once('end', onEnd);
        act(secure, raw, attempt);
      });
    });
  });
}

function act(socket: Socket, raw: Socket, { send = [], ending, to }: Attempt): void {
  for (const piece of send) socket.write(Buffer.from(piece, 'base64'));
  if (ending === 'fin') socket.end();
  if (ending !== 'reset') return;
  // Flushed first: the reset shall come after the bytes. Not in the midst of what TLS does.
  socket.write('', () =>
    setImmediate(() => {
      // A Unix socket has no reset.
      if (typeof to === 'string') raw.destroy();
      else raw.resetAndDestroy();
    }),
  );
}

/** `answer` is the call's grpc-status, or what went wrong. */
function callGrpc(
  socket: TLSSocket,
  { path, body }: NonNullable<Attempt['call']>,
  done: (answer: string) => void,
): void {
  // node:http2 takes no TLS connection without ALPN; the mesh's servers speak HTTP/2 by prior knowledge.
  socket.alpnProtocol = 'h2';
  const session = connectHttp2('http://mesh', { createConnection: () => socket });
  session.on('error', (error) => done(`session: ${error.message}`));
  const stream = session.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  let status = '';
  const note = (headers: IncomingHttpHeaders): void => {
    const code = headers['grpc-status'];
    if (code !== undefined) status = `grpc-status ${code.toString()}`;
  };
  stream.on('response', note);
  stream.on('trailers', note);
  stream.on('error', (error) => done(`stream: ${error.message}`));
  stream.on('close', () => done(status));
  stream.resume();
  stream.end(Buffer.from(body, 'base64'));
}
