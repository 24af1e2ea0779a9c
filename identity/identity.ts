// SPDX-License-Identifier: Apache-2.0
// Puts the identity service together: issuer, rules, TLS and gRPC server, admin port. Where registry and token
// reviewer come from is the caller's decision.

import { Registry as MetricRegistry } from 'prom-client';
import { serveAdminPort } from '#lib/admin-port/admin-port.ts';
import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { serveGrpc } from '#lib/grpc/server.ts';
import { IdentityService } from '#lib/proto/gen/linkerd/identity.ts';
import { eligibility } from '#lib/registry/eligibility.ts';
import { defaultMeshSettings } from '#lib/registry/mesh-settings.ts';
import type { Pod } from '#lib/registry/model.ts';
import type { PodEvent, Registry } from '#lib/registry/registry.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { identityOf } from '#lib/x509/names.ts';
import { createAccounts } from './accounts.ts';
import { createIdentityMetrics } from './metrics.ts';
import type { IdentityConfig } from './config.ts';
import { loadIssuerFiles } from './issuer-files.ts';
import { createOwnCertificate } from './own-certificate.ts';
import { createIdentityService } from './service.ts';

export interface IdentityOptions {
  readonly config: Pick<
    IdentityConfig,
    | 'listen'
    | 'adminListen'
    | 'cluster'
    | 'trustDomain'
    | 'identityNamespace'
    | 'namespace'
    | 'agentServiceAccount'
    | 'anchorsFile'
    | 'issuerCertFile'
    | 'issuerKeyFile'
    | 'leafLifetimeMs'
    | 'clockSkewMs'
  >;
  readonly registry: Registry;
  readonly reviewer: TokenReviewer;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** Served on the admin port with what identity itself counts. */
  readonly metrics?: MetricRegistry;
  /** Tells people what became of a new issuer or new trust anchors. */
  readonly tell?: (event: PodEvent) => void;
  readonly filesIntervalMs?: number;
}

export interface RunningIdentity {
  readonly address: { readonly ip: string; readonly port: number };
  readonly adminAddress: { readonly ip: string; readonly port: number };
  /** Looks at issuer and anchors now instead of at the next interval. */
  checkFiles(): Promise<void>;
  close(graceMs?: number): Promise<void>;
}

const FILES_INTERVAL_MS = 5000;

export async function startIdentity(options: IdentityOptions): Promise<RunningIdentity> {
  const { config, clock, random, log } = options;
  const domain = { identityNamespace: config.identityNamespace, trustDomain: config.trustDomain };
  const files = await loadIssuerFiles({
    files: { anchors: config.anchorsFile, certificate: config.issuerCertFile, key: config.issuerKeyFile },
    clock,
    intervalMs: options.filesIntervalMs ?? FILES_INTERVAL_MS,
    log,
    tell: options.tell ?? (() => undefined),
  });
  const own = await createOwnCertificate({
    identity: identityOf({ namespace: config.namespace, name: 'linkerd-identity' }, domain),
    issuer: () => files.issuer,
    lifetimeMs: config.leafLifetimeMs,
    clockSkewMs: config.clockSkewMs,
    clock,
    random,
    log,
  });
  const accounts = createAccounts({
    registry: options.registry,
    cluster: config.cluster,
    whyNotMeshed: (pod) => whyNotMeshed(pod, { registry: options.registry, namespace: config.namespace }),
  });
  const register = options.metrics ?? new MetricRegistry();
  const metrics = createIdentityMetrics(register, () => files.issuer, clock);
  const service = createIdentityService({
    domain,
    agent: { namespace: config.namespace, name: config.agentServiceAccount },
    accounts,
    issuer: () => files.issuer,
    reviewer: options.reviewer,
    leafLifetimeMs: config.leafLifetimeMs,
    clockSkewMs: config.clockSkewMs,
    clock,
    log,
    onResult: (result) => metrics.count(result),
  });
  const server = await serveGrpc({
    ...config.listen,
    certificate: own.current,
    anchorsPem: files.anchorsPem,
    // Whoever has no certificate yet comes here to get one.
    clientCertificate: 'optional',
    log,
    messageBytesMax: 64 * 1024,
    onLimit: metrics.limitReached,
    register: (grpc) => grpc.addService(IdentityService, service),
  });
  own.onChange(() => server.setMaterial({ certificate: own.current, anchorsPem: files.anchorsPem }));
  files.onChange(() => own.renew());
  const admin = await serveAdminPort({
    ...config.adminListen,
    ready: () => accounts.synced,
    metrics: { contentType: register.contentType, text: () => register.metrics() },
  });
  log.info({ address: server.address, admin: admin.address }, 'identity is serving');
  return {
    address: server.address,
    adminAddress: admin.address,
    checkFiles: () => files.check(),
    async close(graceMs = 0) {
      files.close();
      own.close();
      accounts.close();
      await server.close(graceMs);
      await admin.close();
    },
  };
}

/** Why a pod is not part of the mesh, so that no agent may speak for it; undefined if it is. */
export function whyNotMeshed(
  pod: Pod,
  options: { readonly registry: Pick<Registry, 'get'>; readonly namespace: string },
): string | undefined {
  const namespace = options.registry.get('Namespace', {
    cluster: pod.cluster,
    namespace: '',
    name: pod.metadata.namespace,
  });
  const answer = eligibility(pod, namespace, { ...defaultMeshSettings, namespace: options.namespace });
  return answer.enrol ? undefined : answer.reason;
}
