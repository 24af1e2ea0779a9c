// SPDX-License-Identifier: Apache-2.0
// Calls the daemon of a local mesh (api.ts), and ends it.

import { request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { errnoName, type ErrorCode, errorCatalogue, errorMessage, MeshError } from '#lib/core/errors.ts';
import type { ApiCalls, ApiMethod } from './api.ts';
import { meshSocketPath } from './layout.ts';
import { daemonPid, sweep } from './sweep.ts';

const DOWN_PATIENCE_MS = 30_000;
const DOWN_POLL_MS = 50;

function failure(body: string): MeshError {
  const parsed: unknown = JSON.parse(body);
  const fields = parsed as { code?: string; message?: string; retryable?: boolean };
  const code = (
    fields.code !== undefined && Object.hasOwn(errorCatalogue, fields.code)
      ? fields.code
      : 'MESH_COMMAND_FAILED'
  ) as ErrorCode;
  return new MeshError(code, fields.message ?? body, { retryable: fields.retryable ?? false });
}

/** One call. Rejects with the daemon's error, or with MESH_NOT_FOUND if no mesh of this name is up. */
export function callDaemon<M extends ApiMethod>(
  name: string,
  method: M,
  body: ApiCalls[M]['request'],
): Promise<ApiCalls[M]['reply']> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath: meshSocketPath(name), path: `/${method}`, method: 'POST' });
    outgoing.on('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        if (response.statusCode === 200) resolve(JSON.parse(text) as ApiCalls[M]['reply']);
        else reject(failure(text));
      });
    });
    outgoing.on('error', (error) => {
      const absent = ['ENOENT', 'ECONNREFUSED'].includes(errnoName(error) ?? '');
      reject(
        absent
          ? new MeshError('MESH_NOT_FOUND', `no local mesh "${name}" is running`, {
              remedy: 'start one with "mesh local up"',
            })
          : new MeshError('MESH_COMMAND_FAILED', `the local mesh does not answer: ${errorMessage(error)}`),
      );
    });
    outgoing.end(JSON.stringify(body));
  });
}

/** Ends the daemon if there is one, then removes whatever is left. True if there was something. */
export async function takeDown(name: string): Promise<boolean> {
  const first = await daemonPid(name);
  const deadline = performance.now() + DOWN_PATIENCE_MS;
  let pid = first;
  if (pid !== undefined) sendSignal(pid, 'SIGTERM');
  while (pid !== undefined) {
    if (performance.now() > deadline) sendSignal(pid, 'SIGKILL');
    await delay(DOWN_POLL_MS);
    pid = await daemonPid(name);
  }
  return (await sweep(name)) || first !== undefined;
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (errnoName(error) !== 'ESRCH') throw error;
  }
}
