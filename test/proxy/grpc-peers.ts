// SPDX-License-Identifier: Apache-2.0
// gRPC as applications speak it: grpc-js at both ends of the scene, with a service whose messages are bytes.

import type { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  type handleBidiStreamingCall,
  type handleClientStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type ServiceError,
  type StatusObject,
} from '@grpc/grpc-js';
import { serveIn } from './harness.ts';
import { CLIENT, services, type ServiceName } from './scene.ts';

const bytes = (value: Buffer): Buffer => value;

function method(name: string, requestStream: boolean, responseStream: boolean) {
  return {
    path: `/shop.Echo/${name}`,
    requestStream,
    responseStream,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  };
}

export const echo = {
  unary: method('Unary', false, false),
  upload: method('Upload', true, false),
  download: method('Download', false, true),
  both: method('Both', true, true),
} satisfies ServiceDefinition;

export interface EchoApplication {
  readonly sockets: Socket[];
  /** Calls of `wait` that the client gave up. */
  readonly cancelled: string[];
  close(): void;
}

/**
 * Answers a request with itself; `fail N` with that status, `fail N later` with it after a message; `wait` never.
 * Downloads give as many messages as asked for, uploads the bytes that came.
 */
export async function serveEcho(netnsFd: number, address: string, port: number): Promise<EchoApplication> {
  const cancelled: string[] = [];
  const failure = (code: number) => ({ code, details: `as asked: ${code}` });
  const unary: handleUnaryCall<Buffer, Buffer> = (call, done) => {
    const [word, code] = call.request.toString('latin1', 0, 32).split(' ');
    if (word === 'fail') done(failure(Number(code)));
    else if (word === 'wait') call.on('cancelled', () => cancelled.push('unary'));
    else {
      const trailers = new Metadata();
      trailers.set('x-key-bin', Buffer.from([0, 255]));
      trailers.set('x-seen', String(call.metadata.get('l5d-client-id')[0] ?? ''));
      done(null, call.request, trailers);
    }
  };
  const upload: handleClientStreamingCall<Buffer, Buffer> = (call, done) => {
    let length = 0;
    call.on('data', (message: Buffer) => {
      length += message.length;
      if (message.toString('latin1', 0, 4) === 'stop') done(failure(9));
    });
    call.on('end', () => done(null, Buffer.from(String(length))));
  };
  const download: handleServerStreamingCall<Buffer, Buffer> = (call) => {
    const [count = '0', code] = call.request.toString('latin1').split(' ');
    call.on('cancelled', () => cancelled.push('download'));
    for (let index = 0; index < Number(count); index++) call.write(Buffer.from(`message ${index}`));
    if (code === undefined) call.end();
    else if (code !== 'wait') call.emit('error', failure(Number(code)));
  };
  const both: handleBidiStreamingCall<Buffer, Buffer> = (call) => {
    call.on('data', (message: Buffer) => call.write(message));
    call.on('end', () => call.end());
  };
  const server = new Server({ 'grpc.max_receive_message_length': -1 });
  server.addService(echo, { unary, upload, download, both });
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const sockets: Socket[] = [];
  const listener = await serveIn(netnsFd, address, port, (socket) => {
    sockets.push(socket);
    injector.injectConnection(socket);
  });
  return {
    sockets,
    cancelled,
    close: () => {
      server.forceShutdown();
      listener.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

export interface EchoOutcome {
  readonly messages: Buffer[];
  readonly status: StatusObject;
}

/** The client pod's application. */
export class EchoClient {
  readonly #client: Client;

  constructor(name: ServiceName) {
    this.#client = new Client(`${CLIENT}:${services[name].listener}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': -1,
      'grpc.enable_retries': 0,
    });
  }

  async unary(request: string | Buffer, deadlineMs?: number, cancelled?: AbortSignal): Promise<EchoOutcome> {
    const { path, requestSerialize, responseDeserialize } = echo.unary;
    const metadata = new Metadata();
    metadata.set('l5d-client-id', 'forged');
    const messages: Buffer[] = [];
    const options = deadlineMs === undefined ? {} : { deadline: Date.now() + deadlineMs };
    const call = this.#client.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      Buffer.from(request),
      metadata,
      options,
      (_error: ServiceError | null, response?: Buffer) => {
        if (response !== undefined) messages.push(response);
      },
    );
    cancelled?.addEventListener('abort', () => call.cancel());
    const status = await statusOf(call);
    return { messages, status };
  }

  async upload(requests: readonly Buffer[]): Promise<EchoOutcome> {
    const { path, requestSerialize, responseDeserialize } = echo.upload;
    const messages: Buffer[] = [];
    const call = this.#client.makeClientStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      (_error: ServiceError | null, response?: Buffer) => {
        if (response !== undefined) messages.push(response);
      },
    );
    const ended = statusOf(call);
    for (const request of requests) call.write(request);
    call.end();
    return { messages, status: await ended };
  }

  download(request: string): ClientReadableStream<Buffer> {
    const { path, requestSerialize, responseDeserialize } = echo.download;
    return this.#client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      Buffer.from(request),
    );
  }

  /** A call of both sides streaming. */
  talk(): ClientDuplexStream<Buffer, Buffer> {
    const { path, requestSerialize, responseDeserialize } = echo.both;
    return this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
  }

  /** Sends the next message when the last one has come back. */
  async both(requests: readonly Buffer[]): Promise<EchoOutcome> {
    const call = this.talk();
    const messages: Buffer[] = [];
    call.on('error', () => undefined);
    call.on('data', (message: Buffer) => {
      messages.push(message);
      const next = requests[messages.length];
      if (next === undefined) call.end();
      else call.write(next);
    });
    call.write(requests[0] as Buffer);
    const status = await statusOf(call);
    return { messages, status };
  }

  close(): void {
    this.#client.close();
  }
}

/** Not once(): that fails for every other status than OK. */
export async function statusOf(call: EventEmitter): Promise<StatusObject> {
  return new Promise((resolve) => call.once('status', resolve));
}

/** Everything that a stream of answers gives. */
export async function outcomeOf(call: ClientReadableStream<Buffer>): Promise<EchoOutcome> {
  const messages: Buffer[] = [];
  call.on('error', () => undefined);
  call.on('data', (message: Buffer) => messages.push(message));
  const status = await statusOf(call);
  return { messages, status };
}
