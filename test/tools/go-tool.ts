// SPDX-License-Identifier: Apache-2.0
// Programs written in Go that tests run: built once from the modules pinned in go.mod beside this file into
// build/test-tools. That needs Go, and the first time a network; afterwards neither.

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { errorMessage, MeshError } from '#lib/core/errors.ts';

const run = promisify(execFile);
const BUILD_MS_MAX = 900_000;
const root = resolve(import.meta.dirname, '../..');

/** As in go.mod. */
export const goTools = {
  cnitool: 'github.com/containernetworking/cni/cnitool',
  h2spec: 'github.com/summerwind/h2spec/cmd/h2spec',
  helm: 'helm.sh/helm/v3/cmd/helm',
  kustomize: 'sigs.k8s.io/kustomize/kustomize/v5',
} as const;

/** The program's path. */
export async function goTool(name: keyof typeof goTools): Promise<string> {
  const binary = join(root, 'build/test-tools', name);
  if (existsSync(binary)) return binary;
  // Where Go's own archive and Debian's packages put it.
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/local/go/bin:/usr/lib/go/bin` };
  try {
    await run('go', ['-C', import.meta.dirname, 'build', '-o', binary, goTools[name]], {
      timeout: BUILD_MS_MAX,
      env,
    });
  } catch (error) {
    throw new MeshError('MESH_HOST_UNFIT', `${name} cannot be built: ${errorMessage(error)}`, {
      cause: error,
      remedy:
        'install Go 1.26 or newer from https://go.dev/dl (from 1.21 on Go fetches the newer one itself; the package of Debian 12 is too old), with a network for the first build',
    });
  }
  return binary;
}
