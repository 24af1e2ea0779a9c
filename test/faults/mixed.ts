// SPDX-License-Identifier: Apache-2.0
// The mixed load in a local mesh (mixed-engine.ts): its server, its clients in pods, and the judgement of what was
// lost while something was hurt, each protocol apart.

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { LocalMesh } from '../../local/harness.ts';
import { type KubernetesObject, pod, type PodOptions, service } from '../e2e/objects.ts';
import type { Loss, LossKind, MixedOptions, MixedReport, MixedStatus } from './mixed-engine.ts';
import { type MixedKind, mixedKinds, type MixedTarget } from './mixed-talks.ts';
import { countedMs } from './pauses.ts';
import { until } from './until.ts';

const SERVER = fileURLToPath(new URL('programs/mixed-server.ts', import.meta.url));
const CLIENT = fileURLToPath(new URL('programs/mixed-client.ts', import.meta.url));
const HOUR_MS = 3_600_000;
const ports = {
  httpPort: 8080,
  http2Port: 8081,
  tcpPort: 7070,
  /** Opaque without being told: a server there speaks first. */
  firstPort: 3306,
} satisfies Omit<MixedTarget, 'host'>;
const OPAQUE = { 'config.linkerd.io/opaque-ports': `${ports.tcpPort},${ports.firstPort}` };

/** The server as pod and service of that name. */
export function mixedServer(ns: string, name: string, options: PodOptions = {}): KubernetesObject[] {
  const numbers = Object.values(ports);
  const base = service(ns, name, ports.httpPort, { annotations: OPAQUE });
  return [
    pod(ns, name, ['node', SERVER, ...numbers.map(String)], {
      ports: numbers,
      readinessPort: ports.tcpPort,
      ...options,
      annotations: { ...OPAQUE, ...options.annotations },
    }),
    {
      ...base,
      spec: {
        ...(base['spec'] as object),
        ports: numbers.map((port) => ({ name: `p${port}`, port, targetPort: port, protocol: 'TCP' })),
      },
    },
  ];
}

export interface MixedLoad {
  status(): Promise<MixedStatus>;
  stop(): Promise<ClientReport>;
}

export interface ClientReport extends MixedReport {
  /** The pod that the client ran in. */
  readonly client: string;
}

export interface StartMixed extends Pick<MixedOptions, 'periodMs' | 'rampMs' | 'timeoutMs'> {
  readonly from: { readonly ns: string; readonly pod: string };
  readonly to: string;
  /** In all; each kind has the same share. */
  readonly connections: number;
}

let loads = 0;

/** Starts a client; it opens its connections within `rampMs`, and holds them until `stop`. */
export function startMixedLoad(mesh: LocalMesh, { from, to, connections, ...rest }: StartMixed): MixedLoad {
  const stopFile = `/run/mixed-${process.pid}-${++loads}.stop`;
  const statusFile = `${stopFile}.status`;
  const each = Math.ceil(connections / mixedKinds.length);
  const options: MixedOptions = {
    host: to,
    ...ports,
    ...rest,
    connections: Object.fromEntries(mixedKinds.map((kind) => [kind, each])),
  };
  let over = false;
  const run = mesh
    .exec(from.pod, ['node', CLIENT, JSON.stringify(options), stopFile, statusFile], {
      ns: from.ns,
      timeoutMs: 4 * HOUR_MS,
    })
    .finally(() => (over = true));
  // Whoever waits for `stop` hears of it; until then it is no unhandled rejection.
  run.catch(() => undefined);
  return {
    async status() {
      if (over) await run;
      const { code, stdout } = await mesh.exec(from.pod, ['cat', statusFile], { ns: from.ns });
      if (code === 0) return JSON.parse(stdout) as MixedStatus;
      return { open: 0, wanted: each * mixedKinds.length, oldestAnswerMs: 0, losses: 0 };
    },
    async stop() {
      if (!over) await mesh.exec(from.pod, ['touch', stopFile], { ns: from.ns });
      const { code, stdout, stderr } = await run;
      assert.equal(code, 0, `the mixed load ended with ${code}: ${stderr}`);
      return { ...(JSON.parse(stdout) as MixedReport), client: from.pod };
    },
  };
}

/** The others change their connection at this moment: HTTP/1.1's new ones. */
const HELD_SHARE = 0.97;

/** Until every connection is open and was answered after now. */
export async function untilAllServed(loadsOfAll: readonly MixedLoad[], timeoutMs: number): Promise<void> {
  const sinceMs = Date.now();
  let last: readonly MixedStatus[] = [];
  try {
    await until('every connection is open and answered', timeoutMs, async () => {
      last = await Promise.all(loadsOfAll.map((load) => load.status()));
      return last.every(
        ({ open, wanted, oldestAnswerMs }) => open >= HELD_SHARE * wanted && oldestAnswerMs > sinceMs,
      );
    });
  } catch (error) {
    throw new Error(`${String(error)}: ${JSON.stringify({ sinceMs, last })}`, { cause: error });
  }
}

/** A time in which some losses are no fault. */
export interface Window {
  readonly name: string;
  readonly fromMs: number;
  readonly toMs: number;
  readonly spares: (loss: Loss, client: string) => boolean;
}

/** From the end of a process until its peers have seen the ends of their connections, on a busy machine. */
const SEEN_MS = 2_000;
const NOTICED_MS = 4_000;
/** Agents give a TLS handshake 10 s: a connection that waits longer in a backlog is given up by its own side. */
const HANDSHAKE_MS = 9_500;
const neverSpared: readonly LossKind[] = ['timeout', 'wrong-nonce'];

/**
 * Something that holds connections died between these moments: what it held is lost, at once, and what was asked
 * before it was gone; what was asked later waits and is answered.
 */
export const death = (name: string, fromMs: number, goneMs: number, toMs: number): Window => ({
  name,
  fromMs,
  toMs,
  spares: ({ kind, askedMs, atMs, detail }) =>
    !neverSpared.includes(kind) &&
    (kind !== 'bad-answer' || /^(502|reset|grpc-status 14)/.test(detail)) &&
    (atMs - askedMs >= HANDSHAKE_MS ||
      // Requests share a connection, and came while it waited.
      (detail.includes('TLS handshake') && atMs - goneMs >= HANDSHAKE_MS) ||
      (countedMs(goneMs, atMs) <= NOTICED_MS &&
        (kind === 'ended-idle' || countedMs(goneMs, askedMs) <= SEEN_MS))),
});

/** The load opens its connections, all at once: on a machine that is busy a TLS handshake may take too long. */
export const opening = (fromMs: number, toMs: number): Window => ({
  name: 'opening',
  fromMs,
  toMs,
  spares: ({ kind, askedMs, atMs, served }) =>
    !neverSpared.includes(kind) && served === 0 && atMs - askedMs >= HANDSHAKE_MS,
});

const cutByDrain: readonly MixedKind[] = ['tcp', 'server-first', 'websocket', 'grpc-stream'];

/**
 * The agent of these clients drained in favour of another one: what has no end of its own is cut when the drain is
 * over, nothing else is lost. A connection may be closed while the next request is on its way to it: one that was kept
 * (RFC 9112 9.3.1), or with HTTP/2's word that nobody looked at it. Clients of other agents do not even see that.
 */
export const handOver = (
  name: string,
  clients: readonly string[],
  fromMs: number,
  cutMs: number,
  toMs: number,
): Window => ({
  name,
  fromMs,
  toMs,
  spares: ({ connection, kind, askedMs, atMs, served }, client) =>
    (cutByDrain.includes(connection) &&
      !neverSpared.includes(kind) &&
      atMs >= cutMs &&
      (served > 0 || atMs - askedMs >= HANDSHAKE_MS)) ||
    (clients.includes(client) &&
      (kind === 'refused' || (connection === 'http1-kept' && kind === 'ended-asked' && served > 0))),
});

/** These clients leave the mesh: a connection that was kept may be closed while the next request is on its way to it. */
export const leaving = (name: string, clients: readonly string[], fromMs: number, toMs: number): Window => ({
  name,
  fromMs,
  toMs,
  spares: ({ connection, kind, served }, client) =>
    clients.includes(client) && connection === 'http1-kept' && kind === 'ended-asked' && served > 0,
});

const describeLoss = ({ connection, kind, detail, askedMs, atMs, served }: Loss, startMs: number): string =>
  `  +${((atMs - startMs) / 1000).toFixed(2)} s ${connection}: ${kind} ${detail}, asked ${atMs - askedMs} ms before, ${served} answers`;

/** What is wrong with the reports, in words; empty when nothing but what the windows spare was lost. */
export function mixedComplaints(
  reports: readonly ClientReport[],
  windows: readonly Window[],
  startMs = 0,
): string[] {
  const found: string[] = [];
  for (const report of reports) {
    if (report.losses > report.lost.length) found.push(`${report.losses} losses, too many to be judged`);
    for (const kind of mixedKinds) {
      if (report.answered[kind] === 0) found.push(`${report.client}, ${kind}: nothing was answered`);
      const bad = report.lost.filter(
        (loss) =>
          loss.connection === kind &&
          !windows.some(
            ({ fromMs, toMs, spares }) =>
              loss.atMs >= fromMs && loss.atMs <= toMs && spares(loss, report.client),
          ),
      );
      if (bad.length > 0) {
        const lines = bad.slice(0, 10).map((loss) => describeLoss(loss, startMs));
        found.push(
          [`${report.client}, ${kind}: ${bad.length} losses that are no window's`, ...lines].join('\n'),
        );
      }
    }
  }
  return found;
}

/** What was answered and lost, by protocol, and what each window cost. */
export function mixedSummary(reports: readonly ClientReport[], windows: readonly Window[]): string {
  const lost = reports.flatMap((report) => report.lost);
  const count = (losses: readonly Loss[]): string =>
    mixedKinds
      .map((kind) => [kind, losses.filter(({ connection }) => connection === kind).length] as const)
      .filter(([, number]) => number > 0)
      .map(([kind, number]) => `${number} ${kind}`)
      .join(', ');
  const answered = mixedKinds.map(
    (kind) => `${reports.reduce((sum, report) => sum + report.answered[kind], 0)} ${kind}`,
  );
  const lines = windows.map(({ name, fromMs, toMs }) => {
    const within = lost.filter(({ atMs }) => atMs >= fromMs && atMs <= toMs);
    return `${name}: ${within.length === 0 ? 'nothing lost' : `lost ${count(within)}`}`;
  });
  const slowest = Math.max(...reports.map(({ latencyMaxMs }) => latencyMaxMs));
  return [`answered ${answered.join(', ')}; slowest answer ${slowest} ms`, ...lines].join('; ');
}
