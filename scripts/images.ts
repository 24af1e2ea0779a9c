// SPDX-License-Identifier: Apache-2.0
// Makes the images without Docker: `node scripts/images.ts` writes build/images/nodemesh.tar, which containerd and
// Docker import, and does only what is not up to date. `node scripts/images.ts --root FOLDER NAME` lays out one image's
// whole root file system, for its Dockerfile in images/.

import { createHash } from 'node:crypto';
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { errorMessage, MeshError } from '#lib/core/errors.ts';
import { runChecked } from '../local/command.ts';
import { writeArchive, writeLayer } from './images/archive.ts';
import { type ImageLayout, imageLayouts } from './images/layout.ts';
import { reachOf } from './images/reach.ts';
import { layOutBase, layOutImage, sizeOf } from './images/root.ts';

const project = join(import.meta.dirname, '..');
const archive = join(project, 'build/images/nodemesh.tar');
const layers = join(project, 'build/images/layers');
const BASE = 'base';

function requireLayout(name: string): ImageLayout {
  const layout = imageLayouts.find((one) => one.name === name);
  if (layout !== undefined) return layout;
  throw new MeshError('MESH_NOT_FOUND', `there is no image "${name}"`, {
    remedy: `there are ${imageLayouts.map((one) => one.name).join(', ')}`,
  });
}

async function layOut(folder: string, image: ImageLayout): Promise<void> {
  mkdirSync(folder, { recursive: true });
  if (image.base) await layOutBase(folder);
  await layOutImage(folder, image);
  checkSize(image, await sizeOf(folder));
}

/** The image's own layer: laid out over the base, as it will run, and then without what the base has. */
async function layOutAbove(base: string, folder: string, image: ImageLayout): Promise<void> {
  await runChecked(['cp', '--archive', '--link', base, folder]);
  await layOutImage(folder, image);
  const inBase = await runChecked(['find', base, '!', '-type', 'd', '-printf', '%P\\0']);
  for (const file of inBase.split('\0').filter(Boolean)) rmSync(join(folder, file));
}

function checkSize(image: ImageLayout, bytes: number): void {
  console.log(`${image.tag}: ${(bytes / 1e6).toFixed(0)} MB`);
  if (bytes > image.bytesMax)
    throw new MeshError('MESH_LIMIT', `${image.tag} has ${bytes} bytes, more than ${image.bytesMax}`);
}

/** Changes when anything changes that the image is made of; what is up to date is not made again. */
function keyOf(image: ImageLayout): string {
  const hash = createHash('sha256').update(JSON.stringify(image)).update(process.version);
  const sources = [...reachOf(project, image.entries).files, 'package.json', 'package-lock.json'];
  const makers = globSync(['scripts/images.ts', 'scripts/images/*.ts'], { cwd: project });
  const copied = Object.keys(image.copies).flatMap((path) =>
    statSync(join(project, path)).isDirectory() ? globSync(`${path}/**/*.*`, { cwd: project }) : [path],
  );
  for (const file of [...sources, ...makers, ...copied].sort())
    hash.update(file).update(readFileSync(join(project, file)));
  return hash.digest('hex');
}

const layerFile = (name: string): string => join(layers, `${name}.tar`);
const keyFile = (image: ImageLayout): string => join(layers, `${image.name}.key`);

const isCurrent = (image: ImageLayout): boolean =>
  existsSync(layerFile(image.name)) &&
  existsSync(keyFile(image)) &&
  readFileSync(keyFile(image), 'utf8') === keyOf(image);

async function writeLayers(images: readonly ImageLayout[]): Promise<void> {
  const work = mkdtempSync(join(layers, 'work-'));
  try {
    const root = join(work, 'root');
    mkdirSync(root);
    await layOutBase(root);
    await writeLayer(root, layerFile(BASE));
    const baseBytes = await sizeOf(root);
    for (const image of images) {
      const key = keyOf(image);
      rmSync(keyFile(image), { force: true });
      const own = join(work, image.name);
      await (image.base ? layOutAbove(root, own, image) : layOutImage(own, image));
      checkSize(image, (await sizeOf(own)) + (image.base ? baseBytes : 0));
      await writeLayer(own, layerFile(image.name));
      writeFileSync(keyFile(image), key);
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function writeImages(): Promise<void> {
  mkdirSync(layers, { recursive: true });
  const stale = imageLayouts.filter((image) => !isCurrent(image));
  if (stale.length > 0) await writeLayers(stale);
  else if (existsSync(archive)) return;
  await writeArchive(
    imageLayouts.map((image) => ({
      tag: image.tag,
      config: image.config,
      layers: [...(image.base ? [layerFile(BASE)] : []), layerFile(image.name)],
    })),
    archive,
  );
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { root: { type: 'string' } },
  });
  await (values.root === undefined
    ? writeImages()
    : layOut(values.root, requireLayout(positionals[0] ?? '')));
}

try {
  await main();
} catch (error) {
  process.stderr.write(`images: ${errorMessage(error)}\n`);
  process.exitCode = 1;
}
