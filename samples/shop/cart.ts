// SPDX-License-Identifier: Apache-2.0
// The carts, kept in redis. Checkout fails for FAIL_PERCENT of the calls, evenly spread, so that there is something
// to see in the success rates.

import { RedisClient } from './redis.ts';
import { failures, serve, work } from './service.ts';

const redis = new RedisClient(
  process.env['REDIS_HOST'] ?? 'redis',
  Number(process.env['REDIS_PORT'] ?? '6379'),
);
const failsNow = failures(Number(process.env['FAIL_PERCENT'] ?? '20'));

serve('cart', [
  [
    'GET',
    /^\/carts\/(\w+)$/,
    async (_call, [user]) => ({
      status: 200,
      body: { items: await redis.command('HGETALL', `cart:${user}`) },
    }),
  ],
  [
    'POST',
    /^\/carts\/(\w+)$/,
    async ({ marker, body }, [user]) => {
      const { product } = JSON.parse(body) as { product?: unknown };
      if (typeof product !== 'number') return { status: 400, body: { error: 'product must be a number' } };
      const count = await redis.command('HINCRBY', `cart:${user}`, `product-${product}`, '1');
      const seen = await redis.command('SET', `last:${user}`, marker, 'EX', '60', 'GET');
      return { status: 200, body: { count, seen } };
    },
  ],
  [
    'POST',
    /^\/carts\/(\w+)\/checkout$/,
    async (_call, [user]) => {
      await work(10, 40); // the bank
      if (failsNow()) return { status: 500, body: { error: 'the payment did not go through' } };
      return { status: 200, body: { paid: await redis.command('DEL', `cart:${user}`) } };
    },
  ],
]);
