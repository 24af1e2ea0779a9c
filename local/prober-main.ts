// SPDX-License-Identifier: Apache-2.0
// Makes HTTP and TCP probes for one node. The daemon starts it inside the node's network namespace and talks to it
// over the channel that child processes of Node.js have; it ends with that channel.

import * as http from 'node:http';
import * as https from 'node:https';
import { connect } from 'node:net';
import { errorMessage } from '#lib/core/errors.ts';
import type { ProbeAnswer, ProbeRequest } from './prober.ts';

function probeTcp(request: ProbeRequest, answer: (problem: string | undefined) => void): void {
  const socket = connect({ host: request.host, port: request.port });
  socket.setTimeout(request.timeoutMs, () => socket.destroy(new Error('timeout')));
  socket.on('connect', () => {
    answer(undefined);
    socket.destroy();
  });
  socket.on('error', (error) => answer(errorMessage(error)));
}

function probeHttp(request: ProbeRequest, answer: (problem: string | undefined) => void): void {
  const secure = request.scheme === 'HTTPS';
  const outgoing = (secure ? https : http).request({
    host: request.host,
    port: request.port,
    path: request.path ?? '/',
    headers: { 'user-agent': 'kube-probe/1.34', accept: '*/*', connection: 'close', ...request.headers },
    agent: false,
    ...(secure ? { rejectUnauthorized: false } : {}),
  });
  const timer = setTimeout(() => outgoing.destroy(new Error('timeout')), request.timeoutMs);
  outgoing.on('response', (response) => {
    const status = response.statusCode ?? 0;
    answer(status >= 200 && status < 400 ? undefined : `HTTP status ${status}`);
    response.resume();
  });
  outgoing.on('error', (error) => answer(errorMessage(error)));
  outgoing.on('close', () => clearTimeout(timer));
  outgoing.end();
}

process.on('message', (request: ProbeRequest) => {
  let answered = false;
  const answer = (problem: string | undefined): void => {
    if (answered) return;
    answered = true;
    const message: ProbeAnswer = { id: request.id, ...(problem === undefined ? {} : { problem }) };
    process.send?.(message);
  };
  if (request.kind === 'tcp') probeTcp(request, answer);
  else probeHttp(request, answer);
});
process.on('disconnect', () => process.exit(0));
