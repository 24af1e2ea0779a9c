// SPDX-License-Identifier: Apache-2.0
// The images without which a cluster does not run: pause and CoreDNS, each of one static program.

import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Image, writeArchive, writeLayer } from '../../scripts/images/archive.ts';
import { COREDNS_IMAGE, PAUSE_IMAGE } from './machine-files.ts';
import type { Programs } from './programs.ts';

/** Their archives, kept beside the programs. */
export async function baseImages(programs: Programs): Promise<string[]> {
  return [
    await imageOf(programs.pause, PAUSE_IMAGE, ['/pause']),
    await imageOf(programs.coredns, COREDNS_IMAGE, ['/coredns']),
  ];
}

async function imageOf(program: string, tag: string, entrypoint: readonly string[]): Promise<string> {
  const archive = join(dirname(program), 'image.tar');
  if (existsSync(archive)) return archive;
  const folder = mkdtempSync(join(dirname(archive), 'image-'));
  try {
    const files = join(folder, 'files');
    mkdirSync(files);
    copyFileSync(program, join(files, entrypoint[0] ?? ''));
    const layer = join(folder, 'layer.tar');
    await writeLayer(files, layer);
    const image: Image = { tag, config: { Entrypoint: entrypoint }, layers: [layer] };
    await writeArchive([image], archive);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return archive;
}
