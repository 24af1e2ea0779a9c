// SPDX-License-Identifier: Apache-2.0
// A server whose answers take their time: says in its log whose request it has got, then answers in pieces, over
// HTTP/1.1 and HTTP/2. gRPC beside it: calls that go on until somebody ends them.
//   node pieces-server.ts HTTP_PORT HTTP2_PORT GRPC_PORT

import { writeSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import {
  createServer as createHttp2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
} from 'node:http2';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type handleBidiStreamingCall,
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Server,
  ServerCredentials,
} from '@grpc/grpc-js';
import { calls, PIECES, pieceOf } from '../pieces.ts';

/** From a request to the head of its answer, and between the pieces. */
const THOUGHT_MS = 40;
const PAUSE_MS = 15;
const [httpPort, http2Port, grpcPort] = process.argv.slice(2).map(Number);

type Request = IncomingMessage | Http2ServerRequest;
type Response = ServerResponse | Http2ServerResponse;

async function answer(request: Request, response: Response): Promise<void> {
  const nonce = String(request.headers['x-nonce']);
  writeSync(1, `got ${nonce}\n`);
  request.resume();
  for (let index = 0; index < PIECES; index++) {
    await sleep(index === 0 ? THOUGHT_MS : PAUSE_MS);
    // Both kinds have it, with signatures that TypeScript cannot join.
    (response as ServerResponse).write(pieceOf(index, nonce, hostname()));
  }
  response.end();
}
const handler = (request: Request, response: Response): void => void answer(request, response);
const http = createServer(handler);
// The client decides when a kept connection ends.
http.keepAliveTimeout = 0;
http.listen(httpPort, '::');
createHttp2Server(handler).listen(http2Port, '::');

const unary: handleUnaryCall<Buffer, Buffer> = () => undefined;
const upload: handleClientStreamingCall<Buffer, Buffer> = (call) => call.resume();
const download: handleServerStreamingCall<Buffer, Buffer> = (call) => {
  const beat = setInterval(() => call.write(Buffer.from(hostname())), PAUSE_MS);
  call.on('cancelled', () => clearInterval(beat));
};
const both: handleBidiStreamingCall<Buffer, Buffer> = (call) =>
  call.on('data', (message: Buffer) => call.write(message));
const grpc = new Server();
grpc.addService(calls, { unary, upload, download, both });
grpc.bindAsync(`[::]:${grpcPort}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
});
