// SPDX-License-Identifier: Apache-2.0
// Decides what the mesh's CNI configuration says: a copy of the cluster's own first configuration with our plugin
// as its last, under a name that sorts before it. The cluster's own file is never touched, so that removal leaves
// every byte as it was. The copy outlives the agent: after a reboot the plugin is in the chain from the first pod
// on. Pure; install.ts does the files.

import { MeshError } from '#lib/core/errors.ts';

export const PLUGIN_TYPE = 'nodemesh-cni';

/** The keys of our entry, as the shim reads them. */
export interface PluginEntry {
  readonly type: typeof PLUGIN_TYPE;
  readonly socket: string;
  /** Of enrolled namespaces and pods; on a real node a path that survives a reboot. */
  readonly enrolledList: string;
  readonly tombstones: string;
  /** The mesh's own namespace, whose pods always pass. */
  readonly namespace: string;
  readonly excludeNamespaces: readonly string[];
  readonly deadlineMs?: number;
}

export interface ConfFile {
  readonly name: string;
  readonly text: string;
}

export interface ConflistPlan {
  readonly name: string;
  readonly text: string;
  /** The file that it is a copy of. */
  readonly primary: string;
  /** What was passed over, with the reason. */
  readonly warnings: readonly string[];
}

/** Names of our file, tried in turn until one sorts before the primary's. */
const ownNames = ['00-nodemesh.conflist', '00-0-nodemesh.conflist', '0-nodemesh.conflist'] as const;

export const isOwnName = (name: string): boolean => ownNames.some((own) => own === name);

/** As libcni: what else lies in the folder is no configuration. */
export const isConfName = (name: string): boolean => /\.(conf|conflist|json)$/.test(name);

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const byName = (a: { readonly name: string }, b: { readonly name: string }): number =>
  Buffer.compare(Buffer.from(a.name), Buffer.from(b.name));

/** A configuration as a list; a text says why the runtime would not take it either. */
function readList({ name, text }: ConfFile): (Json & { readonly plugins: readonly Json[] }) | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return `no JSON: ${error instanceof Error ? error.message : 'unreadable'}`;
  }
  if (!isObject(value)) return 'no JSON object';
  if (!name.endsWith('.conflist')) {
    if (typeof value['type'] !== 'string') return 'no plugin type';
    const { cniVersion, name: network } = value;
    return {
      ...(cniVersion === undefined ? {} : { cniVersion }),
      ...(network === undefined ? {} : { name: network }),
      plugins: [value],
    };
  }
  const plugins = value['plugins'];
  if (!Array.isArray(plugins) || plugins.length === 0) return 'no plugins';
  if (!plugins.every((plugin): plugin is Json => isObject(plugin) && typeof plugin['type'] === 'string')) {
    return 'a plugin without a type';
  }
  return { ...value, plugins };
}

/** Whether a container runtime could take it. */
export const isUsable = (file: ConfFile): boolean => typeof readList(file) !== 'string';

/** `files` is the folder's content; our own file among it is not looked at. */
export function planConflist(
  files: readonly ConfFile[],
  entry: PluginEntry,
  folder = '/etc/cni/net.d',
): ConflistPlan {
  const warnings: string[] = [];
  for (const file of files.filter(({ name }) => isConfName(name) && !isOwnName(name)).sort(byName)) {
    const list = readList(file);
    if (typeof list === 'string') {
      warnings.push(`${file.name}: ${list}`);
      continue;
    }
    const name = ownNames.find((own) => byName({ name: own }, file) < 0);
    if (name === undefined) {
      throw new MeshError(
        'MESH_CONFIG_INVALID',
        `no CNI configuration of ours would sort before ${file.name}`,
        {
          remedy: 'rename that file so that it begins with two digits, such as 10-',
        },
      );
    }
    const plugins = [...list.plugins.filter((plugin) => plugin['type'] !== PLUGIN_TYPE), entry];
    return { name, text: `${JSON.stringify({ ...list, plugins }, null, 2)}\n`, primary: file.name, warnings };
  }
  const seen = warnings.length === 0 ? '' : ` (${warnings.join('; ')})`;
  throw new MeshError('MESH_NOT_FOUND', `${folder} has no CNI configuration to chain after${seen}`, {
    retryable: true,
    remedy:
      "install the cluster's network plugin first, or name the folder that it writes to (NODEMESH_CNI_CONF_DIR)",
  });
}
