// SPDX-License-Identifier: Apache-2.0
// Runs the commands of the installation: reads files and environment, reaches the cluster, writes the output.

import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse } from 'yaml';
import { asDurationMs } from '#lib/core/config.ts';
import { errnoName, errorMessage, MeshError } from '#lib/core/errors.ts';
import { ownVersion } from '#lib/version/own-version.ts';
import type { OutputFormat } from '../../install/print.ts';
import type { ValuesMap } from '../../install/values.ts';
import type { Cluster } from './cluster.ts';
import { connect } from './connect.ts';
import { cniFlags, type FlagSet, meaninglessOf, type ValueReader, valuesOfFlags } from './flags.ts';
import { install, unreachable } from './install.ts';
import { installCni } from './install-cni.ts';
import { prune } from './prune.ts';
import { uninstall } from './uninstall.ts';
import { uninstallCni } from './uninstall-cni.ts';
import { upgrade } from './upgrade.ts';

export interface ClusterFlags {
  readonly [flag: string]: unknown;
  readonly linkerdNamespace: string;
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  readonly as?: string | undefined;
  readonly asGroup?: readonly string[] | undefined;
  readonly output: string;
}

const DEFAULT_NAMESPACE = 'nodemesh';

const note = (line: string): void => void process.stderr.write(`${line}\n`);

export interface InstallFlags extends ClusterFlags {
  readonly ignoreCluster: boolean;
  readonly crds: boolean;
}

export async function runInstall(args: InstallFlags): Promise<void> {
  const output = formatOf(args.output);
  const namespace = namespaceOf(args.linkerdNamespace);
  noteMeaningless(args);
  const values = await valuesOfFlags({}, args, reader);
  const cluster = args.ignoreCluster ? undefined : await connectFor(args).catch(refuseUnreachable);
  try {
    const version = ownVersion();
    process.stdout.write(
      await install({
        namespace,
        output,
        values,
        cluster,
        version,
        crds: args.crds,
        wallMs: Date.now(),
        note,
      }),
    );
  } finally {
    cluster?.close();
  }
}

export interface UpgradeFlags extends ClusterFlags {
  readonly crds: boolean;
  readonly force: boolean;
  readonly fromManifests?: string | undefined;
}

export async function runUpgrade(args: UpgradeFlags): Promise<void> {
  const output = formatOf(args.output);
  const namespace = namespaceOf(args.linkerdNamespace);
  noteMeaningless(args);
  const source = args.fromManifests === '-' ? '/dev/stdin' : args.fromManifests;
  const manifest = source === undefined ? undefined : { source, text: await reader.read(source) };
  await inCluster(args, (cluster) =>
    upgrade({
      cluster,
      namespace,
      output,
      manifest,
      crds: args.crds,
      force: args.force,
      change: (stored) => valuesOfFlags(stored, args, reader),
      newIssuer: ['certificate', 'key'].some((part) => args[`identity-issuer-${part}-file`] !== undefined),
      newAnchors: args['identity-trust-anchors-file'] !== undefined,
      version: ownVersion(),
      wallMs: Date.now(),
      note,
    }),
  );
}

export interface UninstallFlags extends ClusterFlags {
  readonly crds: boolean;
  readonly force: boolean;
}

export async function runUninstall(args: UninstallFlags): Promise<void> {
  const output = formatOf(args.output);
  const namespace = namespaceOf(args.linkerdNamespace);
  const { crds, force } = args;
  await inCluster(args, (cluster) => uninstall({ cluster, namespace, output, crds, force, note }));
}

export async function runPrune(args: ClusterFlags): Promise<void> {
  const output = formatOf(args.output);
  const namespace = namespaceOf(args.linkerdNamespace);
  await inCluster(args, (cluster) => prune({ cluster, namespace, output, version: ownVersion() }));
}

export interface InstallCniFlags extends ClusterFlags {
  readonly ignoreCluster: boolean;
}

export async function runInstallCni(args: InstallCniFlags): Promise<void> {
  const output = formatOf(args.output);
  const namespace = namespaceOf(args.linkerdNamespace);
  noteMeaningless(args, cniFlags);
  const cluster = args.ignoreCluster
    ? undefined
    : await connectFor(args).catch((error: unknown) => {
        throw unreachable(error, 'what runs on the nodes');
      });
  try {
    process.stdout.write(
      await installCni({
        namespace,
        output,
        cluster,
        change: (base) => valuesOfFlags(base, args, reader, cniFlags),
        version: ownVersion(),
        note,
      }),
    );
  } finally {
    cluster?.close();
  }
}

export interface UninstallCniFlags extends ClusterFlags {
  readonly force: boolean;
  readonly wait: string;
}

export async function runUninstallCni(args: UninstallCniFlags): Promise<void> {
  const namespace = namespaceOf(args.linkerdNamespace);
  const waitMs = durationOf('wait', args.wait);
  noteMeaningless(args, cniFlags);
  await inCluster(args, async (cluster) => {
    await uninstallCni({
      cluster,
      namespace,
      force: args.force,
      change: (base) => valuesOfFlags(base, args, reader, cniFlags),
      version: ownVersion(),
      waitMs,
      nowMs: () => performance.now(),
      sleep,
      note,
    });
    return '';
  });
}

function durationOf(flag: string, text: string): number {
  try {
    return asDurationMs(text);
  } catch (error) {
    throw MeshError.from(error, 'MESH_CONFIG_INVALID', `--${flag} ${text}`);
  }
}

/** Writes what `run` says of the cluster. */
async function inCluster(args: ClusterFlags, run: (cluster: Cluster) => Promise<string>): Promise<void> {
  const cluster = await connectFor(args);
  try {
    process.stdout.write(await run(cluster));
  } finally {
    cluster.close();
  }
}

const connectFor = (args: ClusterFlags): Promise<Cluster> =>
  connect({
    kubeconfig: args.kubeconfig,
    context: args.context,
    as: args.as,
    asGroups: args.asGroup ?? [],
    version: ownVersion(),
  });

const refuseUnreachable = (error: unknown): never => {
  throw unreachable(error);
};

function noteMeaningless(args: ClusterFlags, flags?: FlagSet): void {
  const meaningless = meaninglessOf(args, flags);
  if (meaningless.length > 0) note(`No meaning in a mesh without sidecars: ${meaningless.join(', ')}`);
}

function formatOf(text: string): OutputFormat {
  if (text === 'yaml' || text === 'json') return text;
  throw new MeshError('MESH_CONFIG_INVALID', `unsupported format ${text}`, { remedy: 'write yaml or json' });
}

export function namespaceOf(flag: string): string {
  const text = flag === DEFAULT_NAMESPACE ? (process.env['LINKERD_NAMESPACE'] ?? flag) : flag;
  if (!/^[a-zA-Z0-9-]+$/.test(text))
    throw new MeshError('MESH_CONFIG_INVALID', `${text} is not a valid namespace`);
  return text;
}

const FETCH_TIMEOUT_MS = 30_000;

const reader: ValueReader = {
  async read(source) {
    try {
      if (!/^https?:\/\//.test(source)) return await readFile(source, 'utf8');
      const answer = await fetch(source, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      return await answer.text();
    } catch (error) {
      const what =
        errnoName(error) === 'ENOENT' ? 'does not exist' : `cannot be read: ${errorMessage(error)}`;
      throw new MeshError('MESH_CONFIG_INVALID', `${source} ${what}`, {
        cause: error,
        remedy: 'give the path or URL of a file',
      });
    }
  },
  parse(text, source): ValuesMap {
    let values: unknown;
    try {
      values = parse(text, { version: '1.1', merge: true });
    } catch (error) {
      throw MeshError.from(error, 'MESH_CONFIG_INVALID', `${source} is no YAML`);
    }
    if (values === null) return {};
    if (typeof values !== 'object' || Array.isArray(values)) {
      throw new MeshError('MESH_CONFIG_INVALID', `${source} holds no map of values`);
    }
    return values as ValuesMap;
  },
};
