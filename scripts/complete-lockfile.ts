// SPDX-License-Identifier: Apache-2.0
// Adds to package-lock.json the optional packages of other platforms that npm left out, because the registry
// it asked does not serve them: `npm ci` refuses a lockfile without them. They get no integrity hash, and are
// never installed on Linux with glibc on x64 or arm64, the platforms of this project.
// Run it after `npm install` when `make lint` says so: node scripts/complete-lockfile.ts

import { readFileSync, writeFileSync } from 'node:fs';
import { findMissing, type Lockfile } from './tidy/lockfile.ts';

const path = 'package-lock.json';
const lock = JSON.parse(readFileSync(path, 'utf8')) as Lockfile;
const missing = findMissing(lock);
for (const { name, version, neededBy } of missing) {
  const platform = /(android|darwin|freebsd|linux|openharmony|win32)-([a-z0-9]+)(?:-(.*))?$/.exec(name);
  if (platform?.[1] === undefined || platform[2] === undefined) throw new Error(`${name} names no platform`);
  const libc = /musl|gnu/.exec(platform[3] ?? '')?.[0];
  lock.packages[`node_modules/${name}`] = {
    version,
    cpu: [platform[2] === 'armv7' ? 'arm' : platform[2]],
    ...(neededBy.dev === true ? { dev: true } : {}),
    ...(libc === undefined ? {} : { libc: [libc === 'gnu' ? 'glibc' : libc] }),
    optional: true,
    os: [platform[1]],
  };
}
const sorted = Object.entries(lock.packages).sort(([a], [b]) => a.localeCompare(b, 'en'));
writeFileSync(path, `${JSON.stringify({ ...lock, packages: Object.fromEntries(sorted) }, null, 2)}\n`);
console.log(`${missing.length} packages added`);
