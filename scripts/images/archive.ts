// SPDX-License-Identifier: Apache-2.0
// Writes docker-archive files (`docker save`): what containerd and Docker import without a registry. Each layer is a
// tar file; the same layer in two images is the same bytes, which a runtime keeps once.

import { createHash } from 'node:crypto';
import {
  createReadStream,
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { runChecked } from '../../local/command.ts';

export interface ImageConfig {
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Env?: readonly string[];
  readonly WorkingDir?: string;
  /** A number, so that Kubernetes can see that it is not root. */
  readonly User?: string;
}

export interface Image {
  readonly tag: string;
  readonly config: ImageConfig;
  /** Tar files, the lowest first. */
  readonly layers: readonly string[];
}

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

/** A layer of everything in the folder: the same bytes for the same files, whoever made them and when. */
export async function writeLayer(folder: string, file: string): Promise<void> {
  await runChecked([
    'tar',
    '--create',
    `--file=${file}`,
    `--directory=${folder}`,
    '--sort=name',
    '--mtime=@0',
    '--numeric-owner',
    '--owner=0',
    '--group=0',
    '--format=gnu',
    '.',
  ]);
}

/** All of them in one archive, in which each layer is once. Layers and archive lie on one file system. */
export async function writeArchive(images: readonly Image[], file: string): Promise<void> {
  mkdirSync(dirname(file), { recursive: true });
  const folder = mkdtempSync(`${file}.`);
  try {
    const digests = new Map<string, string>();
    for (const layer of new Set(images.flatMap((image) => image.layers))) {
      const digest = await sha256(layer);
      digests.set(layer, digest);
      linkSync(layer, join(folder, `${digest}.tar`));
    }
    const manifest = images.map((image) => {
      const layers = image.layers.map((layer) => digests.get(layer) ?? '');
      const config = JSON.stringify({
        architecture: ARCHITECTURES[process.arch] ?? process.arch,
        os: 'linux',
        config: image.config,
        rootfs: { type: 'layers', diff_ids: layers.map((digest) => `sha256:${digest}`) },
        history: layers.map(() => ({ created: '1970-01-01T00:00:00Z' })),
      });
      const configName = `${createHash('sha256').update(config).digest('hex')}.json`;
      writeFileSync(join(folder, configName), config);
      return { Config: configName, RepoTags: [image.tag], Layers: layers.map((digest) => `${digest}.tar`) };
    });
    writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest));
    await writeLayer(folder, `${folder}.tar`);
    renameSync(`${folder}.tar`, file);
  } finally {
    rmSync(folder, { recursive: true, force: true });
    rmSync(`${folder}.tar`, { force: true });
  }
}
