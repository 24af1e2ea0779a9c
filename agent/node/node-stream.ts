// SPDX-License-Identifier: Apache-2.0
// The agent's side of the node stream: keeps it open, tells of this node's workloads, and reports what became of
// them. While destination is away everything stays as it was; after a reconnect the snapshot's end says what is
// gone, and current states are reported again.

import { randomUUID } from 'node:crypto';
import { type ClientDuplexStream, type ServiceError, status } from '@grpc/grpc-js';
import type { Clock, Random, Timer } from '#lib/core/clock.ts';
import { errorMessage } from '#lib/core/errors.ts';
import type { Log } from '#lib/core/log.ts';
import {
  EnrolmentState,
  type FromNode,
  type NodeServiceClient,
  type ToNode,
  type Welcome,
  type Workload,
} from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { createBackOff } from './back-off.ts';
import type { EnrolmentPhase, EnrolmentReporter, NodeWorkload } from './enrolment-model.ts';
import { nodeWorkload } from './workload-conversion.ts';

export type NodeStreamState =
  | { readonly state: 'connecting' }
  | { readonly state: 'connected'; readonly welcome: Welcome }
  | { readonly state: 'disconnected'; readonly reason: string };

export interface NodeStreamHandlers {
  /** A new workload, or one whose generation changed. */
  onWorkload(workload: NodeWorkload): void;
  onRemoved(uid: string): void;
  /** No client is told of the mesh port of a pod that was reported as leaving. */
  onWithdrawn(uid: string): void;
  /** All workloads of the node have been told since the stream began; what is gone has been removed. */
  onSnapshotEnd(): void;
  /** The namespaces whose pods are meshed by default. */
  onNamespaces(names: readonly string[]): void;
  onState(state: NodeStreamState): void;
}

export interface NodeStreamOptions {
  readonly client: NodeServiceClient;
  readonly nodeName: string;
  readonly cluster: string;
  readonly version: string;
  readonly features: readonly string[];
  /** Reads the token anew for each connection: it is rotated. */
  /** What an earlier agent was told: confirmed, changed or removed by the first snapshot. */
  readonly restored?: readonly Workload[];
  readonly token: () => string | Promise<string>;
  readonly handlers: NodeStreamHandlers;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface NodeStream extends EnrolmentReporter {
  /** One per agent process. */
  readonly instanceId: string;
  readonly connected: boolean;
  /** As destination has told them, for a later agent. */
  readonly workloads: readonly Workload[];
  /** Whether this agent speaks for the node's pods: of two that stream side by side, one does. All is told anew then. */
  setReporting(reporting: boolean): void;
  close(): void;
}

/** Starts at once. */
export function createNodeStream(options: NodeStreamOptions): NodeStream {
  return new ReconnectingNodeStream(options);
}

const WELCOME_TIMEOUT_MS = 15_000;
const REPORTS_MAX = 10_000;

const states: Readonly<Record<EnrolmentPhase, EnrolmentState>> = {
  pending: EnrolmentState.ENROLMENT_STATE_PENDING,
  enrolled: EnrolmentState.ENROLMENT_STATE_ENROLLED,
  failed: EnrolmentState.ENROLMENT_STATE_FAILED,
  leaving: EnrolmentState.ENROLMENT_STATE_LEAVING,
  left: EnrolmentState.ENROLMENT_STATE_LEFT,
};

interface CurrentReport {
  readonly uid: string;
  readonly state: EnrolmentState;
  readonly generation: bigint;
  readonly reason: string;
  readonly message: string;
}

class ReconnectingNodeStream implements NodeStream {
  readonly instanceId = randomUUID();
  readonly #options: NodeStreamOptions;
  readonly #backOff;
  /** What has been told, by uid. */
  readonly #known = new Map<string, Workload>();
  readonly #reports = new Map<string, CurrentReport>();
  #sequence = 0n;
  #call: ClientDuplexStream<FromNode, ToNode> | undefined;
  #timer: Timer | undefined;
  /** Uids named since this stream began; undefined once the snapshot has ended. */
  #snapshot: Set<string> | undefined;
  #welcomed = false;
  #synced = false;
  #reporting = false;
  #closed = false;

  constructor(options: NodeStreamOptions) {
    this.#options = options;
    this.#backOff = createBackOff(options.random);
    for (const workload of options.restored ?? []) this.#known.set(workload.uid, workload);
    void this.#connect();
  }

  get connected(): boolean {
    return this.#welcomed;
  }

  get workloads(): readonly Workload[] {
    return [...this.#known.values()];
  }

  setReporting(reporting: boolean): void {
    this.#reporting = reporting;
    this.#reportAll();
  }

  report(uid: string, phase: EnrolmentPhase, generation: number, reason: string, message: string): void {
    if (this.#reports.size >= REPORTS_MAX && !this.#reports.has(uid)) {
      const [oldest = ''] = this.#reports.keys();
      this.#reports.delete(oldest);
      this.#options.log.warn(
        { uid: oldest },
        'more enrolment states than a node has pods; the oldest is dropped',
      );
    }
    const report = { uid, state: states[phase], generation: BigInt(generation), reason, message };
    this.#reports.set(uid, report);
    if (this.#synced && this.#reporting) this.#send(report);
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#call?.cancel();
  }

  async #connect(): Promise<void> {
    const { handlers, nodeName, cluster, version, features, client, clock } = this.#options;
    handlers.onState({ state: 'connecting' });
    let token: string;
    try {
      token = await this.#options.token();
    } catch (error) {
      this.#disconnected(`the token cannot be read: ${errorMessage(error)}`);
      return;
    }
    if (this.#closed) return;
    this.#snapshot = new Set();
    const call = client.connect();
    this.#call = call;
    call.on('data', (message: ToNode) => {
      if (this.#call === call) this.#take(message);
    });
    call.on('error', (error: ServiceError) => this.#ended(call, `${status[error.code]}: ${error.details}`));
    call.on('end', () => this.#ended(call, 'destination ended the stream'));
    this.#timer = clock.after(WELCOME_TIMEOUT_MS, () => {
      this.#ended(call, `no Welcome within ${WELCOME_TIMEOUT_MS} ms`);
      call.cancel();
    });
    const hello = {
      nodeName,
      instanceId: this.instanceId,
      version,
      features: [...features],
      token: Buffer.from(token.trim()),
      cluster,
    };
    call.write({ message: { $case: 'hello', hello } });
  }

  #ended(call: ClientDuplexStream<FromNode, ToNode>, reason: string): void {
    if (this.#call !== call) return;
    this.#call = undefined;
    this.#disconnected(reason);
  }

  #disconnected(reason: string): void {
    const { handlers, log, clock, nodeName } = this.#options;
    this.#timer?.cancel();
    this.#welcomed = false;
    this.#synced = false;
    if (this.#closed) return;
    const pauseMs = this.#backOff.nextMs();
    log.warn(
      { node: nodeName, reason, retryInMs: Math.round(pauseMs) },
      'no node stream; what is known stays in force',
    );
    handlers.onState({ state: 'disconnected', reason });
    this.#timer = clock.after(pauseMs, () => void this.#connect());
  }

  #take({ message }: ToNode): void {
    const { handlers } = this.#options;
    switch (message?.$case) {
      case 'welcome':
        this.#timer?.cancel();
        this.#backOff.reset();
        this.#welcomed = true;
        handlers.onState({ state: 'connected', welcome: message.welcome });
        return;
      case 'workload':
        this.#workload(message.workload);
        return;
      case 'removed':
        this.#removed(message.removed.uid);
        return;
      case 'snapshotEnd':
        this.#snapshotEnd();
        return;
      case 'withdrawn':
        handlers.onWithdrawn(message.withdrawn.uid);
        return;
      case 'enrolledNamespaces':
        handlers.onNamespaces(message.enrolledNamespaces.names);
        return;
      case undefined:
        // Of a newer destination.
        return;
    }
  }

  #workload(workload: Workload): void {
    this.#snapshot?.add(workload.uid);
    if (this.#known.get(workload.uid)?.generation === workload.generation) return;
    this.#known.set(workload.uid, workload);
    this.#options.handlers.onWorkload(nodeWorkload(workload));
  }

  #removed(uid: string): void {
    this.#reports.delete(uid);
    if (this.#known.delete(uid)) this.#options.handlers.onRemoved(uid);
  }

  #snapshotEnd(): void {
    const named = this.#snapshot;
    this.#snapshot = undefined;
    if (named !== undefined) for (const uid of this.#known.keys()) if (!named.has(uid)) this.#removed(uid);
    this.#synced = true;
    this.#reportAll();
    this.#options.handlers.onSnapshotEnd();
  }

  #reportAll(): void {
    if (!this.#synced || !this.#reporting) return;
    for (const report of this.#reports.values()) this.#send(report);
  }

  #send(current: CurrentReport): void {
    const report = { ...current, cluster: this.#options.cluster, sequence: ++this.#sequence };
    this.#call?.write({ message: { $case: 'report', report } });
  }
}
