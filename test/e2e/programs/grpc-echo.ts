// SPDX-License-Identifier: Apache-2.0
// A gRPC service that says who answers and whom it takes the caller for, and its client, which makes all calls at once
// over one channel and prints what came, as JSON: {"answers":{"one web.mesh…":12},"failures":{"14 refused":1}}
//   node grpc-echo.ts serve NAME PORT        node grpc-echo.ts call HOST PORT COUNT

import {
  Client,
  credentials,
  type handleUnaryCall,
  Metadata,
  Server,
  ServerCredentials,
  type ServiceError,
} from '@grpc/grpc-js';

const unary = {
  path: '/shop.Names/Say',
  requestStream: false,
  responseStream: false,
  requestSerialize: (value: Buffer): Buffer => value,
  requestDeserialize: (value: Buffer): Buffer => value,
  responseSerialize: (value: Buffer): Buffer => value,
  responseDeserialize: (value: Buffer): Buffer => value,
} as const;

const [mode = '', ...words] = process.argv.slice(2);
if (mode === 'serve') {
  const [name = '', port = ''] = words;
  const say: handleUnaryCall<Buffer, Buffer> = (call, done) => {
    done(null, Buffer.from(`${name} ${String(call.metadata.get('l5d-client-id')[0] ?? '')}`));
  };
  const server = new Server();
  server.addService({ say: unary }, { say });
  server.bindAsync(`[::]:${port}`, ServerCredentials.createInsecure(), (error) => {
    if (error !== null) throw error;
  });
} else {
  const [host = '', port = '', count = ''] = words;
  const client = new Client(`${host}:${port}`, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set('l5d-client-id', 'forged');
  const answers: Record<string, number> = {};
  const failures: Record<string, number> = {};
  const add = (counts: Record<string, number>, key: string): void => {
    counts[key] = (counts[key] ?? 0) + 1;
  };
  const call = async (): Promise<void> =>
    new Promise((resolve) => {
      client.makeUnaryRequest(
        unary.path,
        unary.requestSerialize,
        unary.responseDeserialize,
        Buffer.from('who'),
        metadata,
        (error: ServiceError | null, answer?: Buffer) => {
          if (answer === undefined) add(failures, `${error?.code} ${error?.details}`);
          else add(answers, answer.toString());
          resolve();
        },
      );
    });
  await Promise.all(Array.from({ length: Number(count) }, call));
  process.stdout.write(JSON.stringify({ answers, failures }));
  client.close();
}
