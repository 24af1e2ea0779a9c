// SPDX-License-Identifier: Apache-2.0
// A time limit for the TCP connects of grpc-js, which has none. It matters where a service's address leads to pods: a
// connect that was led to one that is being deleted, and answers no more, is led there again by the kernel with each
// SYN, for two minutes; only a new connect is led elsewhere.

import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';

const limitMs = new AsyncLocalStorage<number>();
let subscribed = false;

/** For what this asynchronous context connects to from now on. An attempt that lasts longer fails. */
export function limitConnects(ms: number): void {
  if (!subscribed) subscribe('net.client.socket', onSocket);
  subscribed = true;
  limitMs.enterWith(ms);
}

function onSocket(message: unknown): void {
  const ms = limitMs.getStore();
  if (ms === undefined) return;
  const { socket } = message as { readonly socket: Socket };
  const timer = setTimeout(() => socket.destroy(new Error(`not connected within ${ms} ms`)), ms);
  socket.once('connect', () => clearTimeout(timer));
  socket.once('close', () => clearTimeout(timer));
}
