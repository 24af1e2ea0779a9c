// SPDX-License-Identifier: Apache-2.0
// One node's stream after its Hello was accepted: a snapshot, its end, then every change; reports the other way.

import type { Log } from '#lib/core/log.ts';
import type { DuplexCall } from '#lib/grpc/call.ts';
import {
  type EnrolmentReport,
  EnrolmentState,
  type FromNode,
  type Hello,
  type ToNode,
  type Workload,
} from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { namespaceEnrolled } from '#lib/registry/eligibility.ts';
import type { MeshSettings } from '#lib/registry/mesh-settings.ts';
import { type ClusterIndex, reportedOut, type Topic } from './cluster-index.ts';
import type { EnrolmentReports, ReportOutcome } from './enrolment-reports.ts';
import type { AgentPod } from './node-authentication.ts';
import { CallError, status } from '#lib/grpc/status.ts';
import { StreamState } from './stream-state.ts';
import { workloadMessage } from './workload-message.ts';

export interface NodeStreamOptions {
  readonly call: DuplexCall<FromNode, ToNode>;
  readonly hello: Hello;
  readonly agent: AgentPod;
  readonly index: ClusterIndex;
  readonly settings: MeshSettings;
  readonly cluster: string;
  readonly version: string;
  readonly reports: EnrolmentReports;
  readonly onReport: (outcome: ReportOutcome) => void;
  readonly log: Log;
}

export const serverFeatures: readonly string[] = ['enrolment-reports', 'inbound-policy'];

export class ServedNode {
  readonly #options: NodeStreamOptions;
  readonly #sent = new Map<string, Workload>();
  readonly #state: StreamState<ToNode>;
  /** Pods that leave the mesh and whose agent waits for the word that nobody is told of them any more. */
  readonly #leaving = new Set<string>();
  #namespaces: string | undefined;
  #welcomed = false;

  constructor(options: NodeStreamOptions) {
    this.#options = options;
    const { call, index, cluster, hello } = options;
    this.#state = new StreamState<ToNode>({ index, stream: call, difference: () => this.#difference() });
    const topics: Topic[] = [{ kind: 'node', cluster, name: hello.nodeName }, { kind: 'namespaces' }];
    this.#state.follow(topics);
    this.#state.refresh();
  }

  take(message: FromNode): void {
    switch (message.message?.$case) {
      case 'report':
        this.#report(message.message.report);
        return;
      case 'hello':
        this.#state.fail(new CallError(status.FAILED_PRECONDITION, 'Hello comes once, first'));
        return;
      case 'facts':
      case undefined:
        // Facts are for diagnostics that come later; an unknown message is of a newer agent.
        return;
    }
  }

  #report(report: EnrolmentReport): void {
    const { hello, reports, onReport } = this.#options;
    const found = this.#pods().find(({ pod }) => pod.metadata.uid === report.uid);
    const generation = this.#sent.get(report.uid)?.generation;
    const current = found && generation !== undefined ? { pod: found.pod, generation } : undefined;
    onReport(reports.take(hello.nodeName, hello, report, current));
    this.#leaving.delete(report.uid);
    if (report.state !== EnrolmentState.ENROLMENT_STATE_LEAVING || found === undefined) return;
    this.#leaving.add(report.uid);
    // The condition may have been withdrawn before, as after an agent's restart.
    this.#state.refresh();
  }

  #pods() {
    const { index, cluster, hello } = this.#options;
    return index.podsOfNode(cluster, hello.nodeName);
  }

  #difference(): ToNode[] {
    const { agent, index, cluster, reports } = this.#options;
    const own = index.pod({ cluster, namespace: agent.namespace, name: agent.name });
    if (own?.pod.metadata.uid !== agent.uid) {
      throw new CallError(
        status.PERMISSION_DENIED,
        `pod ${agent.namespace}/${agent.name} of this stream's token is gone`,
      );
    }
    const messages: ToNode[] = [];
    if (!this.#welcomed) messages.push(this.#welcome());

    const gone = new Set(this.#sent.keys());
    const withdrawn: ToNode[] = [];
    for (const meshPod of this.#pods()) {
      const workload = workloadMessage(meshPod);
      gone.delete(workload.uid);
      if (reportedOut(meshPod) && this.#leaving.delete(workload.uid)) {
        withdrawn.push({ message: { $case: 'withdrawn', withdrawn: { cluster, uid: workload.uid } } });
      }
      if (this.#sent.get(workload.uid)?.generation === workload.generation) continue;
      this.#sent.set(workload.uid, workload);
      messages.push({ message: { $case: 'workload', workload } });
      reports.workloadChanged(workload.uid, { pod: meshPod.pod, generation: workload.generation });
    }
    for (const uid of gone) {
      this.#sent.delete(uid);
      this.#leaving.delete(uid);
      reports.forget(uid);
      messages.push({ message: { $case: 'removed', removed: { cluster, uid } } });
    }
    messages.push(...withdrawn, ...this.#enrolledNamespaces());
    if (!this.#welcomed) messages.push({ message: { $case: 'snapshotEnd', snapshotEnd: {} } });
    this.#welcomed = true;
    return messages;
  }

  #welcome(): ToNode {
    const { settings, cluster, version } = this.#options;
    const welcome = {
      version,
      features: [...serverFeatures],
      cluster,
      trustDomain: settings.trustDomain,
      clusterNetworks: [...settings.clusterNetworks],
    };
    return { message: { $case: 'welcome', welcome } };
  }

  #enrolledNamespaces(): ToNode[] {
    const { index, cluster, settings } = this.#options;
    const names = index
      .namespaces(cluster)
      .filter((namespace) => namespaceEnrolled(namespace, settings))
      .map((namespace) => namespace.metadata.name)
      .sort();
    const text = names.join(',');
    if (text === this.#namespaces) return [];
    this.#namespaces = text;
    return [{ message: { $case: 'enrolledNamespaces', enrolledNamespaces: { names } } }];
  }
}
