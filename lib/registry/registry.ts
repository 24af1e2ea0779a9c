// SPDX-License-Identifier: Apache-2.0
// Where the mesh's knowledge of the cluster comes from: a folder of manifests (lib/registry-folder) or
// Kubernetes. Everything above it is the same code; behaviour.ts is run on every implementation.

import type { Kind, ResourceKey, ResourceTypes } from './model.ts';

export interface WatchHandlers<R> {
  added(resource: R): void;
  changed(resource: R, previous: R): void;
  removed(resource: R): void;
}

export interface Watch {
  close(): void;
}

export interface PodRef {
  readonly cluster: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export interface EnrolledCondition {
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason: string;
  readonly message: string;
  /** The workload generation that this is about. */
  readonly generation: number;
}

export interface PodEvent {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly message: string;
}

/** What is written on a pod; what is absent stays as it is. */
export interface PodStatusReport {
  readonly condition?: EnrolledCondition;
  readonly events?: readonly PodEvent[];
}

export interface Registry {
  /** Resolves once everything that exists has been read, and has been told to the watches. */
  synced(): Promise<void>;
  list<K extends Kind>(kind: K): readonly ResourceTypes[K][];
  get<K extends Kind>(kind: K, key: ResourceKey): ResourceTypes[K] | undefined;
  /** Tells of what exists (`added`, before this returns) and then of every change, in order. */
  watch<K extends Kind>(kind: K, handlers: WatchHandlers<ResourceTypes[K]>): Watch;
  /**
   * Writes the enrolment condition and Events of a pod. Idempotent: the same again writes nothing. The pod comes
   * back through `watch` with the condition. Resolves when written; rejects with MESH_NOT_FOUND when the pod
   * (name and uid) is gone.
   */
  reportStatus(pod: PodRef, report: PodStatusReport): Promise<void>;
  close(): void;
}
