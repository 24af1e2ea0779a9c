// SPDX-License-Identifier: Apache-2.0
// One call of the CNI plugin: the environment and the network configuration, read and checked by hand. It decides
// nothing; `handle.ts` (with the agent) and `alone.ts` (without) do.

import { canonicalIp } from '#lib/core/addresses.ts';
import { CniError, cniCode, newestVersion } from './errors.ts';
import { parseExactly } from './exact-json.ts';

/** What came from the container runtime, as the shim carries it. */
export interface CniRequest {
  /** Only CNI_ variables. */
  readonly env: ReadonlyMap<string, string>;
  readonly stdin: string;
}

export type JsonObject = { readonly [key: string]: unknown };

export interface Attachment {
  readonly containerId: string;
  readonly ifname: string;
}

export interface CniConfig {
  readonly cniVersion: string;
  /** The network's name; empty if the configuration has none. */
  readonly network: string;
  /** What GC shall keep; undefined if the runtime says nothing of it. */
  readonly validAttachments: readonly Attachment[] | undefined;
  /** The object of the previous plugin's result as it came; undefined if there is none. */
  readonly prevResult: JsonObject | undefined;
  readonly socket: string;
  readonly enrolledList: string;
  readonly tombstones: string;
  /** The mesh's own namespace. */
  readonly namespace: string;
  readonly excludeNamespaces: readonly string[];
  readonly deadlineMs: number;
}

export const commands = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;
export type CniCommand = (typeof commands)[number];

/** Versions that know chained plugins, oldest first; older ones have no prevResult. */
export const supportedVersions: readonly string[] = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', newestVersion];

/** Since when the specification has a command; ADD and DEL were always there. */
const commandSince: Readonly<Partial<Record<CniCommand, string>>> = {
  CHECK: '0.4.0',
  GC: '1.1.0',
  STATUS: '1.1.0',
};

/** Well-known fields that ask for what a plugin without addresses of its own cannot do. */
const unsupportedFields = ['ipam', 'ipMasq'] as const;

export const defaults = {
  socket: '/run/nodemesh/cni.sock',
  enrolledList: '/var/lib/nodemesh/enrolled',
  tombstones: '/run/nodemesh/tombstones',
  namespace: 'nodemesh',
  deadlineMs: 30_000,
} as const;

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function parseCommand(env: ReadonlyMap<string, string>): CniCommand {
  const text = env.get('CNI_COMMAND') ?? '';
  const command = commands.find((name) => name === text);
  if (command !== undefined) return command;
  throw new CniError(
    cniCode.environment,
    text === '' ? 'CNI_COMMAND is not set' : `CNI_COMMAND is ${JSON.stringify(text)}`,
    { details: `it must be one of ${commands.join(', ')}` },
  );
}

/** The version that answers are written in: the caller's if it looks like one, else the newest. */
export function spokenVersion(stdin: string): string {
  try {
    const parsed: unknown = JSON.parse(stdin);
    const version = isObject(parsed) ? parsed['cniVersion'] : undefined;
    return typeof version === 'string' && /^[0-9.]{1,31}$/.test(version) ? version : newestVersion;
  } catch {
    // Not JSON: whoever reads the configuration says so; errors are then in the newest version.
    return newestVersion;
  }
}

/**
 * DEL needs no more of the configuration than that it can be read: it must succeed for pods whose configuration has
 * been changed since.
 */
export function parseConfig(stdin: string, command: CniCommand): CniConfig {
  const config = decodeConfig(stdin);
  const lenient = command === 'DEL';
  const cniVersion = config['cniVersion'] ?? '0.1.0';
  if (typeof cniVersion !== 'string') throw new CniError(cniCode.decode, 'cniVersion is no text');
  if (!lenient) requireVersion(cniVersion, command);
  const prevResult = config['prevResult'] ?? undefined;
  if (prevResult !== undefined && !isObject(prevResult)) {
    throw new CniError(cniCode.decode, 'prevResult is no JSON object');
  }
  if (command === 'ADD' || command === 'CHECK') refuseUnsupported(config);
  const exclude = config['excludeNamespaces'] ?? [];
  if (!Array.isArray(exclude) || !exclude.every((name): name is string => typeof name === 'string')) {
    throw new CniError(cniCode.config, 'excludeNamespaces is no list of texts');
  }
  const deadlineMs = config['deadlineMs'] ?? defaults.deadlineMs;
  if (
    typeof deadlineMs !== 'number' ||
    !Number.isInteger(deadlineMs) ||
    deadlineMs < 1 ||
    deadlineMs > 600_000
  ) {
    throw new CniError(cniCode.config, 'deadlineMs is no whole number from 1 to 600000');
  }
  const text = (key: 'socket' | 'enrolledList' | 'tombstones' | 'namespace'): string => {
    const value = config[key] ?? defaults[key];
    if (typeof value !== 'string' || value === '' || value.includes('\0')) {
      throw new CniError(cniCode.config, `${key} is no usable text`);
    }
    return value;
  };
  return {
    cniVersion,
    network: typeof config['name'] === 'string' ? config['name'] : '',
    validAttachments: command === 'GC' ? attachmentsOf(config) : undefined,
    prevResult,
    socket: text('socket'),
    enrolledList: text('enrolledList'),
    tombstones: text('tombstones'),
    namespace: text('namespace'),
    excludeNamespaces: exclude,
    deadlineMs,
  };
}

/** The configuration as an object, whatever is in it. */
export function decodeConfig(stdin: string): JsonObject {
  let config: unknown;
  try {
    config = JSON.parse(stdin);
  } catch (error) {
    throw new CniError(
      cniCode.decode,
      `the network configuration is no JSON: ${error instanceof Error ? error.message : 'unreadable'}`,
    );
  }
  if (!isObject(config)) throw new CniError(cniCode.decode, 'the network configuration is no JSON object');
  return config;
}

function requireVersion(cniVersion: string, command: CniCommand): void {
  const at = supportedVersions.indexOf(cniVersion);
  if (at < 0) {
    throw new CniError(
      cniCode.incompatibleVersion,
      `cniVersion ${JSON.stringify(cniVersion.slice(0, 80))} is not supported`,
      { details: `use one of ${supportedVersions.join(', ')}` },
    );
  }
  const since = commandSince[command];
  if (since !== undefined && at < supportedVersions.indexOf(since)) {
    throw new CniError(cniCode.incompatibleVersion, `cniVersion ${cniVersion} does not know ${command}`, {
      details: `${command} came with ${since}`,
    });
  }
}

function refuseUnsupported(config: JsonObject): void {
  for (const field of unsupportedFields) {
    const value = config[field] ?? false;
    if (value === false) continue;
    throw new CniError(
      cniCode.unsupportedField,
      `the field ${field} is not supported: ${JSON.stringify(value).slice(0, 200)}`,
      {
        details:
          'addresses are the work of the plugin before; remove the field from the entry of nodemesh-cni',
      },
    );
  }
}

/** libcni writes an empty list as null, and the list also under the name that the tagged 1.1.0 text has. */
function attachmentsOf(config: JsonObject): Attachment[] | undefined {
  const key = ['cni.dev/valid-attachments', 'cni.dev/attachments'].find((name) => name in config);
  if (key === undefined) return undefined;
  const list = config[key] ?? [];
  if (!Array.isArray(list)) throw new CniError(cniCode.decode, `${key} is no list`);
  return list.map((entry: unknown) => {
    const { containerID, ifname } = isObject(entry) ? entry : {};
    if (typeof containerID !== 'string' || typeof ifname !== 'string') {
      // To go on without the entry would take a living pod out of the mesh.
      throw new CniError(cniCode.decode, `${key} has an entry without containerID and ifname`);
    }
    return { containerId: containerID, ifname };
  });
}

/** As the specification limits it; the length is that of a file name. */
export const isContainerId = (id: string): boolean =>
  id.length <= 250 && /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(id);

/** CNI_CONTAINERID. */
export function requireContainerId(env: ReadonlyMap<string, string>): string {
  const id = env.get('CNI_CONTAINERID') ?? '';
  if (id === '') throw new CniError(cniCode.environment, 'CNI_CONTAINERID is not set');
  if (!isContainerId(id)) {
    throw new CniError(
      cniCode.environment,
      `CNI_CONTAINERID ${JSON.stringify(id.slice(0, 80))} is no container id`,
      {
        details: 'it begins with a letter or digit and goes on with letters, digits, "_", "." and "-"',
      },
    );
  }
  return id;
}

/** CNI_IFNAME: a name that the kernel would take. */
export function requireIfname(env: ReadonlyMap<string, string>): string {
  const name = env.get('CNI_IFNAME') ?? '';
  if (name === '') throw new CniError(cniCode.environment, 'CNI_IFNAME is not set');
  if (Buffer.byteLength(name) > 15 || name === '.' || name === '..' || /[/:\s\p{Cc}]/u.test(name)) {
    throw new CniError(
      cniCode.environment,
      `CNI_IFNAME ${JSON.stringify(name.slice(0, 80))} is no interface name`,
    );
  }
  return name;
}

export function requireNetns(env: ReadonlyMap<string, string>): string {
  const path = env.get('CNI_NETNS') ?? '';
  if (path === '') throw new CniError(cniCode.environment, 'CNI_NETNS is not set');
  if (!path.startsWith('/')) {
    throw new CniError(
      cniCode.environment,
      `CNI_NETNS ${JSON.stringify(path.slice(0, 80))} is no absolute path`,
    );
  }
  return path;
}

export interface PodArguments {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

/** CNI_ARGS of Kubernetes: `K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=...`. Foreign keys are let be. */
export function podArguments(env: ReadonlyMap<string, string>): PodArguments {
  const found = new Map<string, string>();
  for (const pair of (env.get('CNI_ARGS') ?? '').split(';')) {
    const at = pair.indexOf('=');
    const key = pair.slice(0, at);
    // The first one counts, as in the shim.
    if (at > 0 && !found.has(key)) found.set(key, pair.slice(at + 1));
  }
  return {
    namespace: found.get('K8S_POD_NAMESPACE') ?? '',
    name: found.get('K8S_POD_NAME') ?? '',
    uid: found.get('K8S_POD_UID') ?? '',
  };
}

/** Whether pods of the namespace pass without a question: the mesh's own, kube-system, the configured ones. */
export const isExcluded = (config: CniConfig, namespace: string): boolean =>
  namespace === 'kube-system' ||
  namespace === config.namespace ||
  config.excludeNamespaces.includes(namespace);

/** The result that a chained plugin hands on: the previous one as it came, with a version if it has none. */
export function passedResult(stdin: string): string {
  const { cniVersion, prevResult } = parseExactly(stdin) as { cniVersion: string; prevResult: JsonObject };
  return `${JSON.stringify('cniVersion' in prevResult ? prevResult : { cniVersion, ...prevResult })}\n`;
}

export function requirePrevResult(config: CniConfig): JsonObject {
  const { prevResult } = config;
  if (prevResult === undefined) {
    throw new CniError(cniCode.config, 'prevResult is missing', {
      details: 'nodemesh-cni must stand after the plugin that makes the interface',
    });
  }
  const version = prevResult['cniVersion'] ?? config.cniVersion;
  if (typeof version !== 'string' || !supportedVersions.includes(version)) {
    throw new CniError(
      cniCode.config,
      `prevResult is of cniVersion ${JSON.stringify(version).slice(0, 80)}, which is not supported`,
      { details: `the plugin before must answer in one of ${supportedVersions.join(', ')}` },
    );
  }
  return prevResult;
}

/** The pod's own addresses in a result, without prefix lengths: those of interfaces on the host's side are left out. */
export function resultAddresses(result: JsonObject): string[] {
  const interfaces = result['interfaces'] ?? [];
  const ips = result['ips'] ?? [];
  if (!Array.isArray(interfaces) || !Array.isArray(ips)) {
    throw new CniError(cniCode.decode, 'prevResult: interfaces or ips is no list');
  }
  const addresses: string[] = [];
  for (const entry of ips as unknown[]) {
    const text = isObject(entry) ? entry['address'] : undefined;
    const address = typeof text === 'string' ? canonicalIp(text.split('/')[0] ?? '') : undefined;
    if (!isObject(entry) || address === undefined) {
      throw new CniError(cniCode.decode, `prevResult: ips has an entry without a usable address`);
    }
    const index = entry['interface'];
    const owner = typeof index === 'number' ? (interfaces as unknown[])[index] : undefined;
    const onHost = isObject(owner) && (owner['sandbox'] ?? '') === '';
    if (!onHost && !addresses.includes(address)) addresses.push(address);
  }
  return addresses;
}
