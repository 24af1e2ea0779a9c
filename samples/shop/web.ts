// SPDX-License-Identifier: Apache-2.0
// The shop's front: puts pages together from catalogue and cart.

import { ask, askJson, type Reply, serve } from './service.ts';

const catalogue = process.env['CATALOGUE_URL'] ?? 'http://catalogue';
const cart = process.env['CART_URL'] ?? 'http://cart';

const handOn = ({ status, body }: { status: number; body: string }): Reply => ({
  status,
  body: { from: JSON.parse(body) as unknown },
});

serve('web', [
  [
    'GET',
    /^\/$/,
    async ({ marker }) => {
      const [products, basket] = await Promise.all([
        askJson(catalogue, '/products', marker),
        askJson(cart, '/carts/guest', marker),
      ]);
      return { status: 200, body: { products, basket } };
    },
  ],
  [
    'GET',
    /^\/products\/(\d+)$/,
    async ({ marker }, [id]) => handOn(await ask(catalogue, 'GET', `/products/${id}`, marker)),
  ],
  [
    'POST',
    /^\/cart\/(\w+)$/,
    async ({ marker, body }, [user]) =>
      handOn(await ask(cart, 'POST', `/carts/${user}`, marker, JSON.parse(body) as object)),
  ],
  [
    'POST',
    /^\/checkout\/(\w+)$/,
    async ({ marker }, [user]) => handOn(await ask(cart, 'POST', `/carts/${user}/checkout`, marker, {})),
  ],
]);
