// SPDX-License-Identifier: Apache-2.0
// The products. Version 2 of it, a Deployment of its own behind the same Service, knows prices too.

import { serve, work } from './service.ts';

const version = process.env['VERSION'] ?? 'v1';
const names = ['kettle', 'lamp', 'chair', 'clock', 'rug', 'mirror', 'vase', 'shelf'];
const products = names.map((name, index) => ({
  id: index + 1,
  name,
  ...(version === 'v2' ? { price: 10 + 7 * index } : {}),
}));

const search = (): Promise<void> => (version === 'v2' ? work(6, 16) : work(4, 12));

serve(`catalogue-${version}`, [
  [
    'GET',
    /^\/products$/,
    async () => {
      await search();
      return { status: 200, body: { version, products } };
    },
  ],
  [
    'GET',
    /^\/products\/(\d+)$/,
    async (_call, [id]) => {
      await search();
      const product = products[Number(id) - 1];
      return product === undefined
        ? { status: 404, body: { version, error: 'no such product' } }
        : { status: 200, body: { version, product } };
    },
  ],
]);
