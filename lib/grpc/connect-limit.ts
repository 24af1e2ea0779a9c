// SPDX-License-Identifier: Apache-2.0
// A time limit for the TCP connects of grpc-js, which has none, and who hears that one failed. The limit matters where a
// service's address leads to pods: a connect that was led to one that is being deleted, and answers no more, is led
// there again by the kernel with each SYN, for two minutes; only a new connect is led elsewhere.

import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';

export interface ConnectLimit {
  /** An attempt that lasts longer fails. */
  readonly ms: number;
  readonly failed: (host: string, port: number, error: Error) => void;
}

/** Taken by the connect that it was meant for. */
const next = new AsyncLocalStorage<{ limit: ConnectLimit | undefined }>();
let subscribed = false;

/** For the next that this asynchronous context connects to. */
export function limitConnect(limit: ConnectLimit): void {
  if (!subscribed) subscribe('net.client.socket', onSocket);
  subscribed = true;
  next.enterWith({ limit });
}

function onSocket(message: unknown): void {
  const store = next.getStore();
  const limit = store?.limit;
  if (store === undefined || limit === undefined) return;
  store.limit = undefined;
  const { socket } = message as { readonly socket: Socket };
  let [host, port] = ['', 0];
  socket.once('connectionAttempt', (...address: [string, number]) => ([host, port] = address));
  const timer = setTimeout(
    () => socket.destroy(new Error(`${host}:${port} is not connected within ${limit.ms} ms`)),
    limit.ms,
  );
  const failed = (error: Error): void => limit.failed(host, port, error);
  socket.once('error', failed);
  socket.once('connect', () => {
    clearTimeout(timer);
    socket.off('error', failed);
  });
  socket.once('close', () => clearTimeout(timer));
}
