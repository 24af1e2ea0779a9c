// SPDX-License-Identifier: Apache-2.0
// The shop's front: puts pages together from catalogue, cart and recommendations, and tells of orders.

import { Recommendations } from './recommendation-client.ts';
import { ask, askJson, type Reply, serve } from './service.ts';

const catalogue = process.env['CATALOGUE_URL'] ?? 'http://catalogue';
const cart = process.env['CART_URL'] ?? 'http://cart';
const orders = process.env['ORDERS_URL'] ?? 'http://orders';
const recommendations = new Recommendations(process.env['RECOMMENDATION_ADDRESS'] ?? 'recommendation:80');

/** A page without recommendations is still a page. */
const recommend = (user: string, marker: string): Promise<object> =>
  recommendations.recommend(user, 3, marker).catch((error: unknown) => ({ error: String(error) }));

const handOn = ({ status, body }: { status: number; body: string }): Reply => ({
  status,
  body: { from: JSON.parse(body) as unknown },
});

serve('web', [
  [
    'GET',
    /^\/$/,
    async ({ marker }) => {
      const [products, basket, recommended] = await Promise.all([
        askJson(catalogue, '/products', marker),
        askJson(cart, '/carts/guest', marker),
        recommend('guest', marker),
      ]);
      return { status: 200, body: { products, basket, recommended } };
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
    async ({ marker }, [user]) => {
      const paid = await ask(cart, 'POST', `/carts/${user}/checkout`, marker, {});
      if (paid.status === 200) await ask(orders, 'POST', '/orders', marker, { user });
      return handOn(paid);
    },
  ],
]);
