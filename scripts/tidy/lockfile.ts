// SPDX-License-Identifier: Apache-2.0
// Optional packages that a lockfile names but does not describe; `npm ci` refuses such a lockfile.

export interface LockedPackage {
  readonly version?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

export interface Lockfile {
  readonly packages: Record<string, LockedPackage>;
}

export interface MissingPackage {
  readonly name: string;
  readonly version: string;
  readonly neededBy: LockedPackage;
}

export function findMissing(lock: Lockfile): MissingPackage[] {
  const missing: MissingPackage[] = [];
  for (const neededBy of Object.values(lock.packages)) {
    for (const [name, version] of Object.entries(neededBy.optionalDependencies ?? {})) {
      if (lock.packages[`node_modules/${name}`] === undefined) missing.push({ name, version, neededBy });
    }
  }
  return missing;
}
