// SPDX-License-Identifier: Apache-2.0
// Lays out the root file system of an image: Node.js and the libraries that it loads, from this machine's Debian
// packages; sources, pruned packages and a compile cache, so that programs start as quickly as on a used machine.

import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { runChecked, runCommand } from '../../local/command.ts';
import { APP, COMPILE_CACHE, CONTROLLER_UID, type ImageLayout } from './layout.ts';
import { packageFolders, reachOf } from './reach.ts';

const project = join(import.meta.dirname, '../..');
const FILL_MS_MAX = 120_000;

/** Of a package nothing is needed that only compilers and people read. */
const unread =
  /\.([cm]?ts|map|md|markdown|flow|c|cc|cpp|h|gyp|tsbuildinfo)$|(^|\/)(test|tests|__tests__|docs|examples?|benchmarks?|\.github)$/;

function put(root: string, source: string, target = source): void {
  const to = join(root, target);
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(realpathSync(source), to);
}

/** Copies a program and every library that its loader would map, each under the path that the loader looks at. */
async function putProgram(root: string, program: string, target = program): Promise<void> {
  put(root, program, target);
  // A static program has no libraries, and ldd calls that a failure.
  const { stdout } = await runCommand(['ldd', program]);
  const libraries = [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map((match) => match[1] ?? '');
  for (const library of libraries) put(root, library);
  await putLicences(root, [program, ...libraries]);
}

/** Of the Debian packages that the files belong to. */
async function putLicences(root: string, files: readonly string[]): Promise<void> {
  for (const file of files) {
    const { stdout } = await runCommand(['dpkg-query', '--search', realpathSync(file), `*${file}`]);
    for (const owner of new Set([...stdout.matchAll(/^([\w.+-]+)(?::\w+)?: /gm)].map((match) => match[1]))) {
      const licence = `/usr/share/doc/${owner}/copyright`;
      if (existsSync(licence)) put(root, licence);
    }
  }
}

function putBaseFiles(root: string): void {
  for (const folder of [
    'etc',
    'usr/lib',
    'usr/lib64',
    'usr/bin',
    'usr/sbin',
    'proc',
    'sys',
    'dev',
    'run',
    'var/run',
  ])
    mkdirSync(join(root, folder), { recursive: true });
  mkdirSync(join(root, 'tmp'));
  chmodSync(join(root, 'tmp'), 0o1777);
  for (const folder of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${folder}`, join(root, folder));
  const users = ['root:x:0:0:root:/:/bin/sh', `nodemesh:x:${CONTROLLER_UID}:${CONTROLLER_UID}::/:/bin/false`];
  writeFileSync(join(root, 'etc/passwd'), `${users.join('\n')}\nnobody:x:65534:65534::/:/bin/false\n`);
  writeFileSync(join(root, 'etc/group'), `root:x:0:\nnodemesh:x:${CONTROLLER_UID}:\nnogroup:x:65534:\n`);
  writeFileSync(join(root, 'etc/nsswitch.conf'), 'hosts: files dns\n');
}

/** Node.js and the C library: the same layer below every image that has it. */
export async function layOutBase(root: string): Promise<void> {
  putBaseFiles(root);
  await putProgram(root, process.execPath, '/usr/local/bin/node');
  await runChecked(['strip', join(root, 'usr/local/bin/node')]);
  put(root, join(dirname(process.execPath), '../LICENSE'), '/usr/local/share/doc/node/LICENSE');
  // What the agent loads by name.
  const [libbpf] = globSync('/usr/lib/*/libbpf.so.1');
  if (libbpf === undefined)
    throw new MeshError('MESH_HOST_UNFIT', 'libbpf.so.1 is missing', { remedy: 'run make setup' });
  await putProgram(root, libbpf);
}

/** What an image has above the base. */
export async function layOutImage(root: string, image: ImageLayout): Promise<void> {
  for (const program of image.programs) await putProgram(root, program);
  if (image.programs.includes('/usr/bin/busybox')) await putAppletLinks(root);
  for (const [source, target] of Object.entries(image.copies)) {
    mkdirSync(dirname(join(root, target)), { recursive: true });
    cpSync(join(project, source), join(root, target), { recursive: true });
  }
  mkdirSync(root, { recursive: true });
  if (image.entries.length === 0) return;
  const app = join(root, APP);
  const { files, packages } = reachOf(project, image.entries);
  for (const file of [...files, 'LICENSE', 'package.json']) put(app, join(project, file), file);
  for (const folder of packageFolders(project, packages)) putPackage(app, folder);
  await fillCompileCache(root, image, files);
}

function putPackage(app: string, folder: string): void {
  cpSync(join(project, folder), join(app, folder), {
    recursive: true,
    // A package inside a package is one of the list by itself.
    filter: (path) =>
      path === join(project, folder) || !(unread.test(path) || basename(path) === 'node_modules'),
  });
}

async function putAppletLinks(root: string): Promise<void> {
  const applets = await runChecked(['busybox', '--list']);
  for (const applet of applets.trim().split('\n')) {
    const link = join(root, 'usr/bin', applet);
    if (!existsSync(link)) symlinkSync('busybox', link);
  }
}

/**
 * Loads every module once inside the new root, as the user who will run it: Node.js keeps a cache for each user, and
 * one that belongs to another is not read.
 */
async function fillCompileCache(root: string, image: ImageLayout, files: readonly string[]): Promise<void> {
  const cache = join(root, COMPILE_CACHE);
  mkdirSync(cache, { recursive: true });
  chmodSync(cache, 0o777);
  const program = `
    for (const file of ${JSON.stringify(files.filter((file) => !image.entries.includes(file)))}) {
      try { await import('${APP}/' + file); } catch {} // one that must be a worker: what it imports is loaded all the same
    }
    (await import('node:module')).flushCompileCache();
    process.exit(0);`;
  await runChecked(
    [
      'chroot',
      `--userspec=${image.uid}:${image.uid}`,
      root,
      '/usr/local/bin/node',
      '--input-type=module',
      '--eval',
      program,
    ],
    {
      env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: COMPILE_CACHE, NODE_ENV: 'production' },
      timeoutMs: FILL_MS_MAX,
    },
  );
  if (globSync(`${cache}/*/*`).length === 0)
    throw new MeshError('MESH_COMMAND_FAILED', `the compile cache of ${image.name} stayed empty`);
  await runChecked(['chmod', '-R', 'u=rwX,go=rX', cache]);
}

/** Bytes of all files. */
export async function sizeOf(root: string): Promise<number> {
  return Number((await runChecked(['du', '--summarize', '--bytes', root])).split('\t')[0]);
}
