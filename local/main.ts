// SPDX-License-Identifier: Apache-2.0
// The daemon as a process of its own, for `mesh local up --detach` and for tests: takes its options as the first
// message of the channel to its parent, and reports on it.

import { errorMessage, MeshError } from '#lib/core/errors.ts';
import type { ChildReport, ChildRequest } from './spawn-daemon.ts';
import { runMesh } from './up.ts';

const report = (message: ChildReport): void => {
  if (process.connected) process.send?.(message);
};

process.once('message', (request: ChildRequest) => {
  runMesh(
    {
      ...request.options,
      endWithParent: request.endWithParent,
      waitMs: request.waitMs,
      progress: (line) => report({ type: 'progress', line }),
    },
    () => report({ type: 'ready' }),
  ).then(
    () => process.exit(0),
    (error: unknown) => {
      const code = error instanceof MeshError ? error.code : 'MESH_COMMAND_FAILED';
      report({ type: 'failed', code, message: errorMessage(error) });
      process.exit(1);
    },
  );
});
