// SPDX-License-Identifier: Apache-2.0
// Orders as they are paid: a page that shows them, the WebSocket that brings them to it, and the place where web
// puts them. What a client says on its WebSocket it is told again, so that both ways can be checked.

import { serve } from './service.ts';
import { ServerWebSocket } from './websocket.ts';

/** Orders of the last while, for whoever comes new. */
const KEPT = 10;
const CLIENTS_MAX = 500;

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Live orders</title>
<style>body { font: 16px/1.5 sans-serif; margin: 2em } li:first-child { font-weight: bold }</style>
<h1>Live orders</h1>
<p id="state">connecting</p>
<ul id="orders"></ul>
<script>
  const state = document.getElementById('state');
  const list = document.getElementById('orders');
  function open() {
    const socket = new WebSocket(location.href.replace(/^http/, 'ws').replace(/\\/$/, '') + '/live');
    socket.onopen = () => { state.textContent = 'connected'; };
    socket.onclose = () => { state.textContent = 'connecting again'; setTimeout(open, 1000); };
    socket.onmessage = ({ data }) => {
      const { number, user } = JSON.parse(data);
      if (number === undefined) return;
      const line = document.createElement('li');
      line.textContent = 'order ' + number + ' of ' + user;
      list.prepend(line);
      while (list.children.length > 20) list.lastChild.remove();
    };
  }
  open();
</script>
</html>
`;

const clients = new Set<ServerWebSocket>();
const kept: string[] = [];
let count = 0;

const server = serve('orders', [
  ['GET', /^\/$/, () => ({ status: 200, page })],
  [
    'POST',
    /^\/orders$/,
    ({ body, marker }) => {
      const { user } = JSON.parse(body) as { user?: unknown };
      if (typeof user !== 'string') return { status: 400, body: { error: 'user must be a text' } };
      const order = JSON.stringify({ number: ++count, user, marker });
      kept.push(order);
      if (kept.length > KEPT) kept.shift();
      for (const client of clients) client.send(order);
      return { status: 201, body: { number: count } };
    },
  ],
]);

server.on('upgrade', (request, socket, early) => {
  if (request.url?.split('?')[0] !== '/live' || clients.size >= CLIENTS_MAX) {
    socket.end('HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
    return;
  }
  const client = ServerWebSocket.accept(request, socket, early, {
    onText: (text) => client?.send(JSON.stringify({ heard: text.slice(0, 200) })),
    onClose: () => {
      if (client !== undefined) clients.delete(client);
    },
  });
  if (client === undefined) return;
  clients.add(client);
  for (const order of kept) client.send(order);
});

process.once('SIGTERM', () => {
  for (const client of clients) client.close(1001);
});
