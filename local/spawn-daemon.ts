// SPDX-License-Identifier: Apache-2.0
// Starts the daemon (main.ts) as a process of its own and waits until the mesh is up.

import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { type ErrorCode, MeshError } from '#lib/core/errors.ts';
import type { UpOptions } from './up.ts';

export interface ChildRequest {
  readonly options: Omit<UpOptions, 'progress' | 'waitMs' | 'endWithParent'>;
  readonly waitMs: number | undefined;
  /** Remove the mesh when whoever started it ends. */
  readonly endWithParent: boolean;
}

export type ChildReport =
  | { readonly type: 'progress'; readonly line: string }
  | { readonly type: 'ready' }
  | { readonly type: 'failed'; readonly code: ErrorCode; readonly message: string };

/** Resolves with the daemon's process once all is ready; it goes on by itself unless `endWithParent`. */
export function spawnDaemon(request: ChildRequest, progress: (line: string) => void): Promise<ChildProcess> {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'main.ts')], {
    // One that goes on by itself must not hold a pipe that somebody reads to its end.
    stdio: ['ignore', 'ignore', request.endWithParent ? 'inherit' : 'ignore', 'ipc'],
    detached: true,
    cwd: '/',
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code, signal) =>
      reject(new MeshError('MESH_COMMAND_FAILED', `the local mesh ended at once (${signal ?? code})`)),
    );
    child.on('message', (report: ChildReport) => {
      switch (report.type) {
        case 'progress':
          progress(report.line);
          return;
        case 'failed':
          reject(new MeshError(report.code, report.message));
          return;
        case 'ready':
          child.removeAllListeners('exit');
          if (!request.endWithParent) {
            child.disconnect();
            child.unref();
          }
          resolve(child);
      }
    });
    child.send(request);
  });
}
