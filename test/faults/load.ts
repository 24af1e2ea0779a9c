// SPDX-License-Identifier: Apache-2.0
// Load for tests of faults: an echo server as a pod, a client inside another pod, a report at the end. In a local
// mesh, or on a cluster whose pods have the client's files (test/cluster/load-pods.ts).
//   const load = await startLoad(mesh, { from: { ns, pod }, host, rate, connections });
//   load.mark('agent killed'); … ; assertOnly(await load.stop(), { allow: [], minRate: 50 });

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { LocalMesh } from '../../local/harness.ts';
import { type KubernetesObject, pod, type PodOptions, service } from '../e2e/objects.ts';
import type { LoadOptions } from './load-engine.ts';
import type { LoadReport, Report } from './report.ts';
import { until } from './until.ts';

export { assertOnly, type Demands, type LoadReport, rateOf, summary } from './report.ts';

const ECHO = fileURLToPath(new URL('programs/echo.ts', import.meta.url));
const CLIENT = fileURLToPath(new URL('programs/load-client.ts', import.meta.url));
const HOUR_MS = 3_600_000;
const BEGUN_MS = 30_000;
export const HTTP_PORT = 8080;
/** Opaque: the servers' pods and services say so. */
export const TCP_PORT = 7070;
const OPAQUE = { 'config.linkerd.io/opaque-ports': String(TCP_PORT) };

/** An echo server as pod and service of that name. */
export function echoServer(ns: string, name: string, options: PodOptions = {}): KubernetesObject[] {
  const base = service(ns, name, HTTP_PORT, { annotations: OPAQUE });
  const ports = [HTTP_PORT, TCP_PORT].map((port) => ({
    name: `p${port}`,
    port,
    targetPort: port,
    protocol: 'TCP',
  }));
  return [
    pod(ns, name, ['node', ECHO, String(HTTP_PORT), String(TCP_PORT)], {
      ports: [HTTP_PORT, TCP_PORT],
      readinessPort: TCP_PORT,
      ...options,
      annotations: { ...OPAQUE, ...options.annotations },
    }),
    { ...base, spec: { ...(base['spec'] as object), ports } },
  ];
}

export interface StartLoad extends Partial<Omit<LoadOptions, 'host' | 'rate'>> {
  /** The pod that the client runs in. */
  readonly from: { readonly ns: string; readonly pod: string };
  /** A service's name or an address. */
  readonly to: string;
  readonly rate: number;
}

export interface Load {
  /** Remembers when something was done, for the report. */
  mark(name: string): void;
  stop(): Promise<LoadReport>;
}

/** Where pods are that can be told to run something. */
export interface LoadGround extends Pick<LocalMesh, 'exec'> {
  /** The client's program as the pods see it, if they do not see this folder. */
  readonly loadClient?: string;
}

let loads = 0;

/** Starts the load, and resolves when every connection that it keeps was answered; it runs until `stop`. */
export async function startLoad(mesh: LoadGround, options: StartLoad): Promise<Load> {
  const { from, to, rate, ...rest } = options;
  const stopFile = `/${mesh.loadClient === undefined ? 'run' : 'tmp'}/load-${process.pid}-${++loads}.stop`;
  const begunFile = `${stopFile}.begun`;
  const engine: LoadOptions = {
    host: to,
    rate,
    httpPort: HTTP_PORT,
    tcpPort: TCP_PORT,
    connections: 4,
    kinds: ['http-new', 'http-kept', 'tcp-new', 'tcp-kept'],
    ...rest,
  };
  const marks: { name: string; atMs: number }[] = [];
  let over = false;
  const run = mesh
    .exec(from.pod, ['node', mesh.loadClient ?? CLIENT, JSON.stringify(engine), stopFile, begunFile], {
      ns: from.ns,
      timeoutMs: 2 * HOUR_MS,
    })
    .finally(() => (over = true));
  // Whoever waits for `stop` hears of it; until then it is no unhandled rejection.
  run.catch(() => undefined);
  await until('each kind of request, and each kept connection, is answered', BEGUN_MS, async () => {
    if (over) await run;
    return (await mesh.exec(from.pod, ['rm', begunFile], { ns: from.ns })).code === 0 ? true : undefined;
  });
  return {
    mark: (name) => marks.push({ name, atMs: Date.now() }),
    async stop() {
      if (!over) {
        const stopped = await mesh.exec(from.pod, ['touch', stopFile], { ns: from.ns });
        assert.equal(stopped.code, 0, stopped.stderr);
      }
      const { code, stdout, stderr } = await run;
      assert.equal(code, 0, `the load ended with ${code}: ${stderr}`);
      const report = JSON.parse(stdout) as Report;
      return { ...report, marks };
    },
  };
}

const TRIAL_MS = 1500;

/** A short load of its own, again and again until one is served in full, by all these servers if there are any. */
export async function untilServed(
  mesh: LocalMesh,
  options: StartLoad & { readonly timeoutMs: number; readonly servers?: readonly string[] },
): Promise<void> {
  const { timeoutMs, servers = [], ...load } = options;
  let last: LoadReport | undefined;
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    const trial = await startLoad(mesh, load);
    await sleep(TRIAL_MS);
    last = await trial.stop();
    const { failed, succeeded, byServer, failures } = last;
    if (failed === 0 && succeeded > 0 && servers.every((server) => (byServer[server] ?? 0) > 0)) return;
    if (Date.now() > endMs) {
      throw new Error(
        `not served in full within ${timeoutMs} ms: ${JSON.stringify({ byServer, failed, first: failures.slice(0, 3) })}`,
      );
    }
  }
}
