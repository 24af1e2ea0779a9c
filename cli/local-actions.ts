// SPDX-License-Identifier: Apache-2.0
// What the commands of `mesh local` do: mostly a call to the daemon and printing its answer.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { errnoName, MeshError } from '#lib/core/errors.ts';
import { callDaemon, takeDown } from '../local/api-client.ts';
import type { MeshStatus } from '../local/api.ts';
import type { AppliedObject } from '../local/apply.ts';
import { exitCodeOf } from '../local/command.ts';
import type { ExtraEnv } from '../local/control-plane.ts';
import { requireMeshName } from '../local/layout.ts';
import type { ManifestSource } from '../local/manifests.ts';
import type { AgentAction } from '../local/node-agent.ts';
import { type AnyObject, clusterScoped, type Kind } from '../local/objects.ts';
import { requireFitHost } from '../local/preflight.ts';
import type { NodeSelfCheck } from '../local/self-checks.ts';
import { spawnDaemon } from '../local/spawn-daemon.ts';
import { runMesh } from '../local/up.ts';
import { objectTable } from './object-table.ts';
import { ExitCode, UsageError } from './outcome.ts';

const DELETE_PATIENCE_MS = 120_000;
const STANDARD_INPUT = 0;

const KINDS: Readonly<Record<string, Kind>> = {
  po: 'Pod',
  pod: 'Pod',
  pods: 'Pod',
  svc: 'Service',
  service: 'Service',
  services: 'Service',
  no: 'Node',
  node: 'Node',
  nodes: 'Node',
  endpointslices: 'EndpointSlice',
  httproute: 'HTTPRoute',
  httproutes: 'HTTPRoute',
  grpcroute: 'GRPCRoute',
  grpcroutes: 'GRPCRoute',
  deploy: 'Deployment',
  deployment: 'Deployment',
  deployments: 'Deployment',
  ns: 'Namespace',
  namespace: 'Namespace',
  namespaces: 'Namespace',
  sa: 'ServiceAccount',
  serviceaccount: 'ServiceAccount',
  serviceaccounts: 'ServiceAccount',
};

function kindOf(text: string): Kind {
  const kind = Object.hasOwn(KINDS, text) ? KINDS[text] : undefined;
  if (kind !== undefined) return kind;
  throw new UsageError(
    `unknown kind "${text}"; there are pods, svc, httproutes, grpcroutes, nodes, deploy, ns and sa`,
  );
}

const print = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

function readSources(files: readonly string[]): ManifestSource[] {
  return files.map((file) => {
    try {
      // By descriptor: /dev/stdin cannot be opened when it is a socket.
      return { file, text: readFileSync(file === '/dev/stdin' ? STANDARD_INPUT : file, 'utf8') };
    } catch (error) {
      const what = errnoName(error) === 'ENOENT' ? 'does not exist' : `cannot be read: ${String(error)}`;
      throw new MeshError('MESH_MANIFEST_INVALID', `${file} ${what}`, {
        remedy: 'give the path of a manifest',
      });
    }
  });
}

const printObjects = (objects: readonly AppliedObject[]): void => {
  for (const { kind, namespace, name, action } of objects) {
    print(`${kind.toLowerCase()} ${namespace === '' ? '' : `${namespace}/`}${name} ${action}`);
  }
};

export interface UpArguments {
  readonly name: string;
  readonly files: readonly string[];
  readonly nodes: number;
  readonly zones: readonly string[];
  readonly detach: boolean;
  readonly meshed: boolean;
  readonly waitMs: number | undefined;
  readonly logLevel: string;
  readonly agentEnv: ExtraEnv;
  readonly identityEnv: ExtraEnv;
  readonly destinationEnv: ExtraEnv;
}

export async function up(args: UpArguments): Promise<void> {
  const { detach, waitMs, files, ...options } = args;
  requireMeshName(args.name);
  requireFitHost(args.meshed);
  const sources = readSources(files);
  const ready = (): void => print(`local mesh ${args.name} is up`);
  if (detach) {
    await spawnDaemon({ options: { ...options, sources }, waitMs, endWithParent: false }, print);
    ready();
    return;
  }
  await runMesh({ ...options, sources, waitMs, endWithParent: false, progress: print }, () => {
    ready();
    print('Ctrl-C removes it');
  });
}

export async function apply(name: string, files: readonly string[]): Promise<void> {
  printObjects(await callDaemon(name, 'apply', { sources: readSources(files) }));
}

export async function remove(
  name: string,
  files: readonly string[],
  namespace: string,
  kind: string | undefined,
  object: string | undefined,
): Promise<void> {
  const refs =
    kind === undefined || object === undefined
      ? []
      : [{ kind: kindOf(kind), namespace: clusterScoped(kindOf(kind)) ? '' : namespace, name: object }];
  printObjects(
    await callDaemon(name, 'delete', { sources: readSources(files), refs, waitMs: DELETE_PATIENCE_MS }),
  );
}

export async function annotate(
  name: string,
  kindText: string,
  namespace: string,
  object: string,
  items: readonly string[],
): Promise<void> {
  const kind = kindOf(kindText);
  if (kind !== 'Namespace' && kind !== 'Pod')
    throw new UsageError('annotations are for a namespace (ns) or a pod');
  const ref = { kind, namespace: kind === 'Namespace' ? '' : namespace, name: object };
  printObjects([await callDaemon(name, 'annotate', { ref, items })]);
}

export async function get(
  name: string,
  kindText: string,
  namespace: string | undefined,
  output: 'table' | 'wide' | 'json',
): Promise<void> {
  const kind = kindOf(kindText);
  const objects: readonly AnyObject[] = await callDaemon(name, 'get', {
    kind,
    namespace: clusterScoped(kind) ? undefined : namespace,
  });
  if (output === 'json') {
    print(JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }, null, 2));
    return;
  }
  if (objects.length === 0) process.stderr.write('nothing found\n');
  else
    print(
      objectTable(
        kind,
        objects,
        { wide: output === 'wide', namespaces: namespace === undefined },
        Date.now(),
      ),
    );
}

/** Runs `argv` with our own terminal, input and output; rejects with its exit code unless that is 0. */
async function become(argv: readonly string[]): Promise<void> {
  const [program = '', ...args] = argv;
  // The terminal sends Ctrl-C to both of us; the program decides what it means.
  const ignore = (): void => undefined;
  process.on('SIGINT', ignore);
  try {
    const code = await new Promise<number>((resolve, reject) => {
      const child = spawn(program, args, { stdio: 'inherit' });
      child.on('error', reject);
      child.on('exit', (status, signal) => resolve(exitCodeOf(status, signal)));
    });
    if (code !== 0) throw new ExitCode(code);
  } finally {
    process.off('SIGINT', ignore);
  }
}

export async function exec(
  name: string,
  namespace: string,
  pod: string,
  container: string | undefined,
  argv: readonly string[],
): Promise<void> {
  const reply = await callDaemon(name, 'exec', { namespace, pod, container, argv });
  await become(reply.argv);
}

export async function logs(
  name: string,
  namespace: string,
  pod: string,
  container: string | undefined,
  follow: boolean,
): Promise<void> {
  const { file } = await callDaemon(name, 'logs', { namespace, pod, container });
  if (follow) {
    try {
      await become(['tail', '-n', '+1', '-F', file]);
    } catch (error) {
      // Ctrl-C is how following ends.
      if (!(error instanceof ExitCode)) throw error;
    }
  } else if (existsSync(file)) process.stdout.write(readFileSync(file));
}

const statusLine = (program: string, pid: string, starts: string): string =>
  `${program.padEnd(28)}${pid.padEnd(10)}${starts}`;

/** Each program of the mesh with its process and how often it was started, and each node's self-check. */
export async function status(name: string, output: 'table' | 'json'): Promise<void> {
  const found = await callDaemon(name, 'status', {});
  const selfChecks = await callDaemon(name, 'selfChecks', {});
  if (output === 'json') print(JSON.stringify({ ...found, selfChecks }, null, 2));
  else printStatus(found, selfChecks);
  if (selfChecks.some(({ result }) => result === 'failed')) throw new ExitCode(1);
}

function printStatus(found: MeshStatus, selfChecks: readonly NodeSelfCheck[]): void {
  print(statusLine('PROGRAM', 'PID', 'STARTS'));
  for (const program of found.programs) {
    print(statusLine(program.name, String(program.pid ?? '-'), String(program.starts)));
  }
  for (const { node, result, checkedAt, repairs, problems } of selfChecks) {
    const when = checkedAt === '' ? '' : ` at ${checkedAt}, ${repairs} repairs so far`;
    print(`self-check of ${node}: ${result}${when}`);
    for (const problem of problems) print(`  ${problem}`);
  }
  print(found.unready.length === 0 ? 'all is ready' : `not ready: ${found.unready.join(', ')}`);
}

export async function actOnAgent(
  name: string,
  node: string,
  action: AgentAction,
  wait: boolean,
): Promise<void> {
  const { pid } = await callDaemon(name, 'agent', { node, action, wait });
  print(`the agent of ${node} is process ${pid ?? '(not there yet)'}`);
}

export async function reboot(name: string, node: string): Promise<void> {
  await callDaemon(name, 'reboot', { node });
  print(`${node} has booted; its agent and its pods are starting`);
}

export async function down(name: string): Promise<void> {
  requireMeshName(name);
  print((await takeDown(name)) ? `local mesh ${name} is removed` : `there is no local mesh ${name}`);
}
