// SPDX-License-Identifier: Apache-2.0
// Where a program of the control plane reads the cluster and has tokens reviewed, as its settings say: a folder of
// manifests or a Kubernetes cluster.

import type { Registry as MetricRegistry } from 'prom-client';
import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { readText } from '#lib/files/watch-files.ts';
import { alone, type Leadership } from '#lib/registry/leadership.ts';
import type { Kind, Taint } from '#lib/registry/model.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import type { RegistrySource } from '#lib/registry/registry-source.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { createFolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { connectCluster } from './connect.ts';

export interface SourceOptions {
  readonly config: {
    readonly registry: RegistrySource;
    readonly cluster: string;
    readonly namespace: string;
    readonly tokenKeyFile: string;
  };
  /** The program's Deployment; Events about it as a whole are told there. */
  readonly name: string;
  /** The Lease by which one replica leads, if there is one. */
  readonly lease?: string;
  /** What the program reads. */
  readonly kinds: readonly Kind[];
  readonly version: string;
  readonly metrics: MetricRegistry;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface OpenSource {
  readonly registry: Registry;
  readonly reviewer: TokenReviewer;
  /** Tells people of what concerns the program as a whole; in a folder there is nobody to tell. */
  readonly tell: (event: PodEvent) => void;
  readonly leadership: Leadership;
  /** Absent in a folder. */
  readonly removeTaint?: (node: string, index: number, taint: Taint) => Promise<void>;
  close(): Promise<void>;
}

export async function openSource(options: SourceOptions): Promise<OpenSource> {
  const { config, clock, log } = options;
  const { cluster, registry: source } = config;
  if (source.kind === 'kubernetes') {
    return await connectCluster({
      ...options,
      kubeconfig: source.kubeconfig,
      cluster,
      self: { namespace: config.namespace, name: options.name },
    });
  }
  const publicKeyPem = await readText(config.tokenKeyFile);
  const registry = createFolderRegistry({ folder: source.folder, cluster, clock, log });
  const reviewer = createLocalTokenReviewer({ publicKeyPem, registry, cluster, clock });
  return {
    registry,
    reviewer,
    tell: () => undefined,
    leadership: alone,
    close: () => registry.close(),
  };
}
