// SPDX-License-Identifier: Apache-2.0
// Puts the destination service together: its own certificate, TLS and gRPC server, streams, admin port. Where
// registry and token reviewer come from is the caller's decision.

import { serveAdminPort } from '#lib/admin-port/admin-port.ts';
import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { callerIdentity, serveGrpc } from '#lib/grpc/server.ts';
import { createCertificates } from '#lib/identity-client/certificates.ts';
import { DestinationService } from '#lib/proto/gen/linkerd/destination.ts';
import { OutboundPoliciesService } from '#lib/proto/gen/linkerd/outbound.ts';
import { NodeServiceService } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { identityOf } from '#lib/registry/mesh-settings.ts';
import type { Registry } from '#lib/registry/registry.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { type DestinationConfig, meshSettings } from './config.ts';
import { createDestinationMetrics } from './metrics.ts';
import { createDestinationServices } from './services.ts';

export interface DestinationOptions {
  readonly config: DestinationConfig;
  readonly registry: Registry;
  readonly reviewer: TokenReviewer;
  readonly version: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface RunningDestination {
  readonly address: { readonly ip: string; readonly port: number };
  readonly adminAddress: { readonly ip: string; readonly port: number };
  close(graceMs?: number): Promise<void>;
}

/** An agent looks up every destination of its node's pods over one connection. */
const STREAMS_PER_CONNECTION_MAX = 50_000;

/** Resolves once it serves, which takes a certificate: the admin port answers before. */
export async function startDestination(options: DestinationOptions): Promise<RunningDestination> {
  const { config, registry, clock, random, log } = options;
  const settings = meshSettings(config);
  const metrics = createDestinationMetrics();
  let serving = false;
  const services = createDestinationServices({
    registry,
    settings,
    metrics,
    clock,
    log,
    reviewer: options.reviewer,
    cluster: config.cluster,
    agentServiceAccount: config.agentServiceAccount,
    version: options.version,
    callerOf(call) {
      const identity = callerIdentity(call);
      return identity === undefined ? undefined : { identity, connection: call.getPeer() };
    },
  });
  const admin = await serveAdminPort({
    ...config.adminListen,
    metrics,
    ready: () => serving && services.index.isSynced,
  });

  const identity = identityOf('linkerd-destination', config.identityNamespace, settings);
  const certificates = createCertificates({
    identityAddress: config.identityAddress,
    identityName: config.identityName,
    tokenFile: config.identityTokenFile,
    anchorsFile: config.anchorsFile,
    clock,
    random,
    log,
  });
  certificates.want(identity);
  await services.index.synced();
  let certificate = await certificates.ready(identity);
  const server = await serveGrpc({
    ...config.listen,
    certificate,
    anchorsPem: certificates.anchorsPem(),
    clientCertificate: 'required',
    log,
    streamsPerConnectionMax: STREAMS_PER_CONNECTION_MAX,
    register(grpc) {
      grpc.addService(DestinationService, services.destination);
      grpc.addService(OutboundPoliciesService, services.policies);
      grpc.addService(NodeServiceService, services.node);
    },
  });
  const update = (): void => server.setMaterial({ certificate, anchorsPem: certificates.anchorsPem() });
  certificates.onChange((changed) => {
    if (changed.identity !== identity) return;
    certificate = changed;
    update();
  });
  certificates.onAnchors(update);
  serving = true;
  log.info({ address: server.address, admin: admin.address }, 'destination is serving');
  return {
    address: server.address,
    adminAddress: admin.address,
    async close(graceMs = 0) {
      serving = false;
      certificates.close();
      await server.close(graceMs);
      services.close();
      await admin.close();
    },
  };
}
