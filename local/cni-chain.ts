// SPDX-License-Identifier: Apache-2.0
// Calls a chain of CNI plugins as a container runtime does (CNI 1.0: section 3, "Execution"): ADD hands each
// plugin the result of the one before, DEL goes backwards. Knows nothing of any single plugin.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { type CommandResult, runCommand } from './command.ts';

type Json = Readonly<Record<string, unknown>>;

export interface CniNetwork {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: readonly Json[];
}

export interface CniCall {
  readonly containerId: string;
  readonly netnsPath: string;
  readonly ifname: string;
  /** CNI_ARGS: `K8S_POD_NAMESPACE` and the like. */
  readonly args: Readonly<Record<string, string>>;
}

export interface CniHost {
  readonly binDir: string;
  /** Puts the plugin where it belongs: into the node's network namespace. */
  readonly wrap: (argv: readonly string[]) => readonly string[];
  readonly timeoutMs: number;
}

/** A plugin's refusal, with the code that it gave (CNI 1.0: section 5, "Error"). */
export class CniError extends MeshError {
  readonly cniCode: number;
  readonly plugin: string;

  constructor(plugin: string, command: string, cniCode: number, message: string) {
    super('MESH_COMMAND_FAILED', `CNI plugin ${plugin}, ${command}: ${message} (code ${cniCode})`, {
      retryable: true,
    });
    this.plugin = plugin;
    this.cniCode = cniCode;
  }
}

export const CNI_TRY_AGAIN_LATER = 11;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const parseJson = (text: string): Json | undefined => {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) ? value : undefined;
  } catch {
    return undefined; // the caller says what was wrong with it, and whose it is
  }
};

export async function readConflist(path: string): Promise<CniNetwork> {
  const value = parseJson(await readFile(path, 'utf8'));
  const plugins = value?.['plugins'];
  const { cniVersion, name } = value ?? {};
  if (
    typeof cniVersion !== 'string' ||
    typeof name !== 'string' ||
    !Array.isArray(plugins) ||
    !plugins.every((plugin): plugin is Json => isObject(plugin) && typeof plugin['type'] === 'string')
  ) {
    throw new MeshError('MESH_CONFIG_INVALID', `${path} is no CNI network configuration list`);
  }
  return { cniVersion, name, plugins };
}

async function callPlugin(
  host: CniHost,
  network: CniNetwork,
  plugin: Json,
  command: 'ADD' | 'DEL',
  call: CniCall,
  prevResult: Json | undefined,
): Promise<Json | undefined> {
  const type = String(plugin['type']);
  const config = {
    ...plugin,
    cniVersion: network.cniVersion,
    name: network.name,
    ...(prevResult === undefined ? {} : { prevResult }),
  };
  const env = {
    PATH: process.env['PATH'],
    CNI_COMMAND: command,
    CNI_CONTAINERID: call.containerId,
    CNI_NETNS: call.netnsPath,
    CNI_IFNAME: call.ifname,
    CNI_ARGS: Object.entries(call.args)
      .map(([key, value]) => `${key}=${value}`)
      .join(';'),
    CNI_PATH: host.binDir,
  };
  let result: CommandResult;
  try {
    result = await runCommand(host.wrap([join(host.binDir, type)]), {
      env,
      input: JSON.stringify(config),
      timeoutMs: host.timeoutMs,
    });
  } catch (error) {
    throw MeshError.from(error, 'MESH_COMMAND_FAILED', `CNI plugin ${type}`);
  }
  const answer = parseJson(result.stdout);
  if (result.code === 0) return answer;
  const code = answer?.['code'];
  const message = [answer?.['msg'], answer?.['details'], result.stderr.trim()].filter(Boolean).join(': ');
  throw new CniError(type, command, typeof code === 'number' ? code : 100, message || `exit ${result.code}`);
}

/** Runs ADD through the chain and returns the last result. After a failure the caller must run DEL. */
export async function cniAdd(host: CniHost, network: CniNetwork, call: CniCall): Promise<Json> {
  let result: Json | undefined;
  for (const plugin of network.plugins) {
    result = await callPlugin(host, network, plugin, 'ADD', call, result);
    if (result === undefined) {
      throw new CniError(String(plugin['type']), 'ADD', 100, 'the answer is no JSON object');
    }
  }
  return result ?? {};
}

/** Runs DEL through the whole chain, last plugin first, even if one fails; then rejects with the first failure. */
export async function cniDel(
  host: CniHost,
  network: CniNetwork,
  call: CniCall,
  result: Json | undefined,
): Promise<void> {
  let failure: unknown;
  for (const plugin of [...network.plugins].reverse()) {
    try {
      await callPlugin(host, network, plugin, 'DEL', call, result);
    } catch (error) {
      failure ??= error;
    }
  }
  if (failure !== undefined) throw failure;
}

/** The addresses, without prefix length, that a result gives to the container. */
export function cniAddresses(result: Json): string[] {
  const ips = result['ips'];
  if (!Array.isArray(ips)) return [];
  return ips.flatMap((ip: unknown) => {
    const address = isObject(ip) ? ip['address'] : undefined;
    return typeof address === 'string' ? [address.split('/')[0] ?? ''] : [];
  });
}
