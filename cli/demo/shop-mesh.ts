// SPDX-License-Identifier: Apache-2.0
// The demo's mesh: two local nodes with the sample shop on them, and what the demo wants to know of it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MeshError } from '#lib/core/errors.ts';
import { inCgroup, inNetns } from '../../local/command.ts';
import { type LocalMesh, type PodObject, startMesh } from '../../local/harness.ts';
import { Capture } from './capture.ts';
import type { NodeFigures } from './check.ts';
import type { DemoPod } from './figures.ts';
import { parseMetrics, type Sample } from './scrape.ts';

const manifest = join(import.meta.dirname, '../../samples/shop/shop.yaml');
const NAMESPACE = 'shop';
const METRICS_PORT = 4191;
/** The bridge between the nodes. */
const WIRE_DEVICE = 'wire0';
const READY_MS = 120_000;
const SCRAPE_MS = 5000;

/** The text that the shop's customers carry through path, header and body of every request. */
export function shopMarker(): string {
  const marker = /SHOP_MARKER\s+value: (\S+)/.exec(readFileSync(manifest, 'utf8'))?.[1];
  if (marker !== undefined) return marker;
  throw new MeshError('MESH_MANIFEST_INVALID', `${manifest} names no SHOP_MARKER`);
}

/** The Deployment of a pod: its ReplicaSet's name without the hash. */
function workloadOf(pod: PodObject): string {
  const owner = pod.metadata.ownerReferences?.[0];
  if (owner === undefined) return pod.metadata.name;
  return owner.kind === 'ReplicaSet' ? owner.name.replace(/-[^-]+$/, '') : owner.name;
}

export class ShopMesh {
  readonly #mesh: LocalMesh;

  private constructor(mesh: LocalMesh) {
    this.#mesh = mesh;
  }

  static async start(progress: (line: string) => void): Promise<ShopMesh> {
    const mesh = await startMesh({ name: 'demo', nodes: 2, mesh: true, readyMs: READY_MS, progress });
    try {
      // Now that both nodes take pods: those of the first node alone would have nothing to send between nodes.
      await mesh.apply(readFileSync(manifest, 'utf8'));
      progress('opening the shop');
      await mesh.waitReady(READY_MS);
    } catch (error) {
      await mesh.down();
      throw error;
    }
    return new ShopMesh(mesh);
  }

  down(): Promise<void> {
    return this.#mesh.down();
  }

  async pods(): Promise<DemoPod[]> {
    const pods = await this.#mesh.pods(NAMESPACE);
    return pods
      .filter((pod) => pod.metadata.deletionTimestamp === undefined)
      .map((pod) => ({
        namespace: NAMESPACE,
        name: pod.metadata.name,
        workload: workloadOf(pod),
        node: pod.spec.nodeName ?? '',
        identity: `${pod.spec.serviceAccountName}.${NAMESPACE}.serviceaccount.identity.linkerd.cluster.local`,
      }));
  }

  /** The metrics of all agents, now. */
  async scrape(): Promise<Sample[]> {
    const texts = await Promise.all(
      this.#mesh.layout.nodes.map(async ({ name, address }) => {
        const url = `http://${address.v4}:${METRICS_PORT}/metrics`;
        const result = await this.#mesh
          .node(name)
          .exec(['curl', '--silent', '--show-error', '--fail', '--max-time', '5', url], {
            timeoutMs: SCRAPE_MS + 1000,
          });
        if (result.code === 0) return result.stdout;
        throw new MeshError(
          'MESH_COMMAND_FAILED',
          `the metrics of ${name} cannot be read: ${result.stderr.trim()}`,
        );
      }),
    );
    return texts.flatMap(parseMetrics);
  }

  async nodes(pods: readonly DemoPod[]): Promise<NodeFigures[]> {
    const { programs } = await this.#mesh.status();
    return this.#mesh.layout.nodes.map(({ name }) => {
      const agent = programs.find((program) => program.name.includes('agent') && program.name.includes(name));
      return {
        name,
        agentRssMiB: agent?.pid === undefined ? 0 : Math.round((residentKiB(agent.pid) / 1024) * 10) / 10,
        pods: pods.filter((pod) => pod.node === name).length,
      };
    });
  }

  capture(): Capture {
    const { layout } = this.#mesh;
    const [from, to] = layout.nodes;
    if (from === undefined || to === undefined) throw new Error('the demo has two nodes');
    return new Capture({
      wrap: (argv) => inCgroup(layout.controlCgroup, inNetns(layout.wireNetns, argv)),
      device: WIRE_DEVICE,
      // A datagram to nobody: what matters is that it passes.
      sendInClear: async (text) => {
        const target = `UDP:${to.address.v4}:${METRICS_PORT}`;
        await this.#mesh
          .node(from.name)
          .exec(['socat', '-u', '-', target], { input: text, timeoutMs: SCRAPE_MS });
      },
    });
  }
}

/** Resident memory of a process and of those that it started. */
function residentKiB(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    return (
      Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) +
      (children === '' ? [] : children.split(' ')).reduce(
        (total, child) => total + residentKiB(Number(child)),
        0,
      )
    );
  } catch {
    return 0; // it has ended
  }
}
