// SPDX-License-Identifier: Apache-2.0
// Destination in a process of its own, so that its memory and time can be measured; certificates are made here.

import { Registry as MetricRegistry } from 'prom-client';
import { systemClock } from '#lib/core/clock.ts';
import { createLog } from '#lib/log/pino.ts';
import { serveGrpc } from '#lib/grpc/server.ts';
import { DestinationService } from '#lib/proto/gen/linkerd/destination.ts';
import { NodeServiceService } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { createCachedReviews } from '#lib/registry/cached-reviews.ts';
import { alone } from '#lib/registry/leadership.ts';
import { defaultMeshSettings, identityOf } from '#lib/registry/mesh-settings.ts';
import type { Registry } from '#lib/registry/registry.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { createFolderRegistry } from '#lib/registry-folder/folder-registry.ts';
import { createLocalTokenReviewer } from '#lib/registry-folder/token-review.ts';
import { createApiClient } from '#lib/registry-kubernetes/api-client.ts';
import { createKubernetesCounts } from '#lib/registry-kubernetes/counts.ts';
import { createKubernetesRegistry } from '#lib/registry-kubernetes/kubernetes-registry.ts';
import { createTokenReviewer } from '#lib/registry-kubernetes/token-review.ts';
import { makeTestAuthority } from '#lib/x509-authority/test-authority.ts';
import { INDEXED_KINDS } from '../../destination/cluster-index.ts';
import { createDestinationMetrics } from '../../destination/metrics.ts';
import { createDestinationServices } from '../../destination/services.ts';
import { clusterAccess } from './cluster-access.ts';
import { CLUSTER } from './population.ts';
import type { SourceDescription } from './stage.ts';

export interface ServeReady {
  readonly kind: 'ready';
  readonly port: number;
  readonly anchorsPem: string;
  readonly agent: { readonly keyPem: string; readonly chainPem: string };
  readonly syncMs: number;
  readonly memory: NodeJS.MemoryUsage;
}

export interface ServeFacts {
  readonly kind: 'facts';
  readonly memory: NodeJS.MemoryUsage;
  readonly cpuMs: number;
  readonly metrics: string;
}

const source = JSON.parse(process.argv[2] ?? '') as SourceDescription;
const clock = systemClock;
const log = createLog('destination', 'warn');
const metrics = new MetricRegistry();

// Also keeps the process alive while the cluster is read.
process.on('message', () => {
  void metrics.metrics().then((text) => {
    const { user, system } = process.cpuUsage();
    const memory = process.memoryUsage();
    // What is in use, without what waits for the collector.
    globalThis.gc?.();
    const facts: ServeFacts = {
      kind: 'facts',
      memory: { ...memory, heapUsed: process.memoryUsage().heapUsed },
      cpuMs: (user + system) / 1000,
      metrics: text,
    };
    process.send?.(facts);
  });
});

const { registry, reviewer } = open();
const settings = defaultMeshSettings;
const services = createDestinationServices({
  registry,
  settings,
  metrics: createDestinationMetrics(metrics),
  clock,
  log,
  reviewer: createCachedReviews({ reviewer, clock }),
  leadership: alone,
  cluster: CLUSTER,
  agentServiceAccount: 'nodemesh-agent',
  version: 'bench',
  callerOf: ({ identity, peer }) => (identity === undefined ? undefined : { identity, connection: peer }),
});
const beganMs = performance.now();
await services.index.synced();
const syncMs = performance.now() - beganMs;
const authority = await makeTestAuthority();
const server = await serveGrpc({
  host: '127.0.0.1',
  port: 0,
  certificate: await authority.leaf(identityOf('linkerd-destination', 'linkerd', settings)),
  anchorsPem: authority.anchorPem,
  clientCertificate: 'required',
  log,
  streamsPerConnectionMax: 50_000,
  register(grpc) {
    grpc.addService(DestinationService, services.destination);
    grpc.addService(NodeServiceService, services.node);
  },
});
const { keyPem, chainPem } = await authority.leaf(identityOf('nodemesh-agent', 'nodemesh', settings));
const ready: ServeReady = {
  kind: 'ready',
  port: server.address.port,
  anchorsPem: authority.anchorPem,
  agent: { keyPem, chainPem },
  syncMs,
  memory: process.memoryUsage(),
};
process.send?.(ready);
process.on('disconnect', () => process.exit(0));

function open(): { readonly registry: Registry; readonly reviewer: TokenReviewer } {
  if (source.kind === 'folder') {
    const opened = createFolderRegistry({ folder: source.folder, cluster: CLUSTER, clock, log });
    const publicKeyPem = source.tokenKeyPem;
    return {
      registry: opened,
      reviewer: createLocalTokenReviewer({ publicKeyPem, registry: opened, cluster: CLUSTER, clock }),
    };
  }
  const access = clusterAccess(source.kubeconfig, source.socket);
  const api = createApiClient({ access, clock, userAgent: 'nodemesh-bench-destination' });
  const counts = createKubernetesCounts(metrics);
  return {
    registry: createKubernetesRegistry({
      api,
      cluster: CLUSTER,
      kinds: INDEXED_KINDS,
      counts,
      tell: (event) => log.warn({ event }, 'told'),
      clock,
      random: Math.random,
      log,
    }),
    reviewer: createTokenReviewer({ api, counts }),
  };
}
