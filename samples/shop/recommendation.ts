// SPDX-License-Identifier: Apache-2.0
// Recommendations over gRPC: a few products for a page, and trends as a stream. FAIL_PERCENT of the pages' calls fail
// with INTERNAL, which HTTP does not know of: the answer is a 200 with that grpc-status.

import {
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  status,
} from '@grpc/grpc-js';
import {
  type RecommendationServer,
  RecommendationService,
  type RecommendReply,
  type RecommendRequest,
  type Trend,
  type WatchTrendsRequest,
} from './proto/gen/shop/v1/recommendation.ts';
import { failures, say, work } from './service.ts';

const PRODUCTS = 8;
const COUNT_MAX = 1000;
const TREND_MS = 100;
const pod = process.env['POD_NAME'] ?? 'recommendation';
const port = Number(process.env['PORT'] ?? '9000');
const failsNow = failures(Number(process.env['FAIL_PERCENT'] ?? '10'));

const anyProduct = (): number => 1 + Math.floor(Math.random() * PRODUCTS);

async function recommend(
  { request }: ServerUnaryCall<RecommendRequest, RecommendReply>,
  done: sendUnaryData<RecommendReply>,
): Promise<void> {
  await work(2, 6);
  const { marker, count } = request;
  if (failsNow()) return done({ code: status.INTERNAL, details: 'nothing comes to mind' });
  done(null, { productIds: Array.from({ length: Math.min(count, PRODUCTS) }, anyProduct), pod, marker });
}

async function watchTrends(call: ServerWritableStream<WatchTrendsRequest, Trend>): Promise<void> {
  const { count, marker } = call.request;
  for (let number = 1; number <= Math.min(count, COUNT_MAX) && !call.cancelled; number++) {
    call.write({ number, productId: anyProduct(), pod, marker });
    await work(TREND_MS, TREND_MS);
  }
  call.end();
}

const service: RecommendationServer = {
  recommend: (call, done) => void recommend(call, done),
  watchTrends: (call) => void watchTrends(call),
};

const server = new Server();
server.addService(RecommendationService, service);
server.bindAsync(`[::]:${port}`, ServerCredentials.createInsecure(), (error) => {
  if (error !== null) throw error;
  say({ server: 'recommendation', pod, listening: port });
});
process.once('SIGTERM', () => {
  say({ server: 'recommendation', stopping: true });
  server.tryShutdown(() => process.exit(0));
});
