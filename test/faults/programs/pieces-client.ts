// SPDX-License-Identifier: Apache-2.0
// Asks programs/pieces-server.ts, with POST, at a steady rate and over kept connections, until the stop file is there;
// then prints what became of each request, as JSON (Asked[]).
//   node pieces-client.ts HOST HTTP_PORT HTTP2_PORT RATE STOP_FILE

import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { type ClientHttp2Session, connect } from 'node:http2';
import { errnoName } from '#lib/core/errors.ts';
import { type Asked, PIECES, pieceOf } from '../pieces.ts';

const [host = '', httpPort, http2Port, rate, stopFile = ''] = process.argv.slice(2);
const PATIENCE_MS = 10_000;
const agent = new Agent({ keepAlive: true, maxSockets: 16 });
const asked: Asked[] = [];
let underWay = 0;

const howOf = (error: Error): string => errnoName(error) ?? error.message;

function judge(
  nonce: string,
  status: number,
  reason: string,
  body: string,
): Pick<Asked, 'outcome' | 'server'> {
  if (status !== 200) return { outcome: `status ${status} ${reason}` };
  const server = /^\d \w+ (.+)\n/.exec(body)?.[1] ?? '';
  const whole = Array.from({ length: PIECES }, (_, index) => pieceOf(index, nonce, server)).join('');
  return { outcome: body === whole ? 'whole' : 'short', server };
}

function askHttp1(nonce: string, done: (seen: Pick<Asked, 'outcome' | 'server'>) => void): void {
  const headers = { 'x-nonce': nonce };
  const request = httpRequest({ agent, host, port: httpPort, method: 'POST', headers, timeout: PATIENCE_MS });
  request.on('timeout', () => request.destroy(new Error('timeout')));
  let answered = false;
  request.on('error', (error) => done({ outcome: `${answered ? 'cut' : 'lost'} ${howOf(error)}` }));
  request.on('response', (response) => {
    answered = true;
    let body = '';
    response.on('data', (chunk: Buffer) => (body += chunk.toString()));
    response.on('error', (error) => done({ outcome: `cut ${howOf(error)}` }));
    response.on('end', () => {
      const reason = String(response.headers['l5d-proxy-error'] ?? '');
      if (response.complete) done(judge(nonce, response.statusCode ?? 0, reason, body));
    });
  });
  request.end('please');
}

let session: ClientHttp2Session | undefined;
function sessionNow(): ClientHttp2Session {
  if (session !== undefined && !session.closed && !session.destroyed) return session;
  session = connect(`http://${host}:${http2Port}`);
  session.on('error', () => undefined);
  return session;
}

function askHttp2(nonce: string, done: (seen: Pick<Asked, 'outcome' | 'server'>) => void): void {
  const stream = sessionNow().request({ ':method': 'POST', ':path': '/', 'x-nonce': nonce });
  let [status, reason, body, failed] = [0, '', '', ''];
  stream.setTimeout(PATIENCE_MS, () => stream.destroy(new Error('timeout')));
  stream.on('response', (headers) => {
    status = headers[':status'] ?? 0;
    reason = String(headers['l5d-proxy-error'] ?? '');
  });
  stream.on('data', (chunk: Buffer) => (body += chunk.toString()));
  stream.on('error', (error) => (failed = howOf(error)));
  stream.on('close', () => {
    if (failed === '') done(judge(nonce, status, reason, body));
    else done({ outcome: `${status === 0 ? 'lost' : 'cut'} ${failed}` });
  });
  stream.end('please');
}

let count = 0;
const beat = setInterval(() => {
  if (existsSync(stopFile)) {
    clearInterval(beat);
    finish();
    return;
  }
  const over = count++ % 2 === 0 ? 'http1' : 'http2';
  const nonce = randomBytes(8).toString('hex');
  const askedMs = Date.now();
  let ended = false;
  underWay++;
  (over === 'http1' ? askHttp1 : askHttp2)(nonce, (seen) => {
    if (ended) return;
    ended = true;
    underWay--;
    asked.push({ over, nonce, askedMs, endedMs: Date.now(), ...seen });
    finish();
  });
}, 1_000 / Number(rate));

function finish(): void {
  if (underWay > 0 || !existsSync(stopFile)) return;
  process.stdout.write(JSON.stringify(asked), () => process.exit(0));
}
