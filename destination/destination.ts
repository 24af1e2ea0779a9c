// SPDX-License-Identifier: Apache-2.0
// Puts the destination service together: its own certificate, TLS and gRPC server, streams, admin port. Where
// registry and token reviewer come from is the caller's decision.

import type { Registry as MetricRegistry } from 'prom-client';
import { serveAdminPort } from '#lib/admin-port/admin-port.ts';
import type { Clock, Random } from '#lib/core/clock.ts';
import type { Log } from '#lib/core/log.ts';
import { type GrpcServer, serveGrpc } from '#lib/grpc/server.ts';
import { createCertificates } from '#lib/identity-client/certificates.ts';
import { DestinationService } from '#lib/proto/gen/linkerd/destination.ts';
import { InboundServerPoliciesService } from '#lib/proto/gen/linkerd/inbound.ts';
import { OutboundPoliciesService } from '#lib/proto/gen/linkerd/outbound.ts';
import { NodeServiceService } from '#lib/proto/gen/nodemesh/node/v1/node.ts';
import { createCachedReviews } from '#lib/registry/cached-reviews.ts';
import { identityOf } from '#lib/registry/mesh-settings.ts';
import type { Leadership } from '#lib/registry/leadership.ts';
import type { Registry } from '#lib/registry/registry.ts';
import type { TokenReviewer } from '#lib/registry/token-review.ts';
import { type DestinationConfig, meshSettings } from './config.ts';
import { createDestinationMetrics } from './metrics.ts';
import { createDestinationServices } from './services.ts';
import { type RemoveTaint, removeStartupTaints } from './startup-taint.ts';

export interface DestinationOptions {
  readonly config: DestinationConfig;
  readonly registry: Registry;
  readonly reviewer: TokenReviewer;
  /** Of several replicas one tells Events and takes taints off. */
  readonly leadership: Leadership;
  readonly removeTaint?: RemoveTaint;
  readonly version: string;
  /** Served on the admin port with what destination itself counts. */
  readonly metrics?: MetricRegistry;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export interface RunningDestination {
  readonly address: { readonly ip: string; readonly port: number };
  readonly policyAddress: { readonly ip: string; readonly port: number };
  readonly adminAddress: { readonly ip: string; readonly port: number };
  close(graceMs?: number): Promise<void>;
}

/** An agent looks up every destination of its node's pods over one connection. */
const STREAMS_PER_CONNECTION_MAX = 50_000;

/** Resolves once it serves, which takes a certificate: the admin port answers before. */
export async function startDestination(options: DestinationOptions): Promise<RunningDestination> {
  const { config, registry, clock, random, log } = options;
  const settings = meshSettings(config);
  const metrics = createDestinationMetrics(options.metrics);
  let serving = false;
  const services = createDestinationServices({
    registry,
    settings,
    metrics,
    clock,
    log,
    leadership: options.leadership,
    reviewer: createCachedReviews({ reviewer: options.reviewer, clock }),
    cluster: config.cluster,
    agentServiceAccount: config.agentServiceAccount,
    version: options.version,
    callerOf: ({ identity, peer }) => (identity === undefined ? undefined : { identity, connection: peer }),
  });
  const taints =
    options.removeTaint === undefined
      ? undefined
      : removeStartupTaints({
          key: config.startupTaint,
          registry,
          agent: { namespace: config.namespace, serviceAccount: config.agentServiceAccount },
          leadership: options.leadership,
          removeTaint: options.removeTaint,
          clock,
          log,
        });
  const admin = await serveAdminPort({
    ...config.adminListen,
    metrics,
    ready: () => serving && services.index.isSynced,
  });

  const identity = identityOf('linkerd-destination', config.namespace, settings);
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
  const serve = (listen: DestinationConfig['listen']): Promise<GrpcServer> =>
    serveGrpc({
      ...listen,
      certificate,
      anchorsPem: certificates.anchorsPem(),
      clientCertificate: 'required',
      log,
      streamsPerConnectionMax: STREAMS_PER_CONNECTION_MAX,
      onLimit: metrics.limitReached,
      // The same on both ports: names of headless services lead proxies to either.
      register(grpc) {
        grpc.addService(DestinationService, services.destination);
        grpc.addService(OutboundPoliciesService, services.outboundPolicies);
        grpc.addService(InboundServerPoliciesService, services.inboundPolicies);
        grpc.addService(NodeServiceService, services.node);
      },
    });
  const server = await serve(config.listen);
  const policyServer = await serve(config.policyListen);
  const servers = [server, policyServer];
  const update = (): void => {
    for (const one of servers) one.setMaterial({ certificate, anchorsPem: certificates.anchorsPem() });
  };
  certificates.onChange((changed) => {
    if (changed.identity !== identity) return;
    certificate = changed;
    update();
  });
  certificates.onAnchors(update);
  serving = true;
  log.info(
    { address: server.address, policy: policyServer.address, admin: admin.address },
    'destination is serving',
  );
  return {
    address: server.address,
    policyAddress: policyServer.address,
    adminAddress: admin.address,
    async close(graceMs = 0) {
      serving = false;
      certificates.close();
      await Promise.all(servers.map((one) => one.close(graceMs)));
      taints?.close();
      services.close();
      await admin.close();
    },
  };
}
