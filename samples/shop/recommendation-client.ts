// SPDX-License-Identifier: Apache-2.0
// Calls of the recommendation service, over one channel.

import { credentials } from '@grpc/grpc-js';
import { RecommendationClient, type RecommendReply, type Trend } from './proto/gen/shop/v1/recommendation.ts';

const DEADLINE_MS = 5000;

export class Recommendations {
  readonly #client: RecommendationClient;

  /** `address`: `name:port`. */
  constructor(address: string) {
    this.#client = new RecommendationClient(address, credentials.createInsecure(), {
      'grpc.service_config_disable_resolution': 1,
    });
  }

  recommend(user: string, count: number, marker: string): Promise<RecommendReply> {
    return new Promise((resolve, reject) => {
      const call = this.#client.recommend({ user, count, marker }, (error, reply) => {
        clearTimeout(timer);
        if (error === null) resolve(reply);
        else reject(error);
      });
      const timer = setTimeout(() => call.cancel(), DEADLINE_MS);
    });
  }

  /** Every trend of a stream; fails unless all came, in order. */
  async watchTrends(count: number, marker: string): Promise<readonly Trend[]> {
    const trends: Trend[] = [];
    for await (const trend of this.#client.watchTrends({ count, marker }) as AsyncIterable<Trend>) {
      trends.push(trend);
      if (trend.number !== trends.length || trend.marker !== marker)
        throw new Error(`trend ${trend.number} came as the ${trends.length}th`);
    }
    if (trends.length !== count) throw new Error(`${trends.length} trends of ${count} came`);
    return trends;
  }

  close(): void {
    this.#client.close();
  }
}
